from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("torch is built without Gloo", allow_module_level=True)

from distributed.pool import Pool


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    ranks = Pool(tmp_path_factory.mktemp("pool"))
    yield ranks
    ranks.close()
