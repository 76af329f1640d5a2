// Lets an addon built on a newer Linux run on glibc 2.28, the oldest that Node 20 itself runs on: what that glibc has not, or has
// otherwise. For released binaries only; the linker sends calls here (--wrap, see cmake/portable_linux.cmake). In and out: as the functions
// of these names.
#include <pthread.h>
#include <sys/stat.h>

#include <cerrno>
#include <ctime>

extern "C" {
#if defined(__x86_64__)
constexpr int stat_version = 1;
#elif defined(__aarch64__)
constexpr int stat_version = 0;
#endif
int __fxstat(int version, int descriptor, struct stat* status) noexcept;

/// What fstat was before glibc 2.33; the two are one on 64 bits.
int __wrap_fstat(int descriptor, struct stat* status) { return __fxstat(stat_version, descriptor, status); }
int __wrap_fstat64(int descriptor, struct stat* status) { return __fxstat(stat_version, descriptor, status); }

/// Of glibc 2.32; never "single-threaded" is always right.
__attribute__((visibility("hidden"))) extern char __libc_single_threaded;
char __libc_single_threaded = 0;

/// Of glibc 2.30. Waits on the wall clock instead: when that is set meanwhile, one wait is too short or too long; callers look at the time
/// again.
int __wrap_pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock, const timespec* until) {
  constexpr long second = 1000000000;
  timespec now, wall;
  if (clock_gettime(clock, &now) != 0 || clock_gettime(CLOCK_REALTIME, &wall) != 0) return EINVAL;
  wall.tv_sec += until->tv_sec - now.tv_sec;
  wall.tv_nsec += until->tv_nsec - now.tv_nsec;
  if (wall.tv_nsec < 0) wall.tv_nsec += second, --wall.tv_sec;
  if (wall.tv_nsec >= second) wall.tv_nsec -= second, ++wall.tv_sec;
  return pthread_cond_timedwait(condition, mutex, &wall);
}
}
