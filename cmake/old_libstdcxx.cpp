// What newer GCCs call, and the libstdc++ of GCC 8 and glibc 2.28, the oldest of manylinux_2_28, do not have.
#include <new>
#include <sstream>

// GLIBC_2.32. Zero: reference counts are atomic even in a process of one thread.
extern "C" char __libc_single_threaded;
char __libc_single_threaded = 0;

namespace std {
void __throw_bad_array_new_length() { throw bad_array_new_length(); }  // GLIBCXX_3.4.29
}  // namespace std

template std::ostringstream::basic_ostringstream();  // GLIBCXX_3.4.26
template std::stringstream::basic_stringstream();    // GLIBCXX_3.4.26
