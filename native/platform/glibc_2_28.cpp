// Lets an addon built on a newer Linux run on glibc 2.28, the oldest that Node 20 itself runs on. The linker sends every call of a function
// in this file here (--wrap, see cmake/portable_linux.cmake, which names the same functions), and from here to the version that glibc has
// always had. For released binaries only. In and out: as the C library's functions of these names.
#include <pthread.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <cerrno>
#include <csignal>
#include <ctime>

#if defined(__x86_64__)
#define BASE "@GLIBC_2.2.5"
constexpr int stat_version = 1;
#elif defined(__aarch64__)
#define BASE "@GLIBC_2.17"
constexpr int stat_version = 0;
#endif

// A name of its own for the old version of each function.
asm(".symver old_dladdr, dladdr" BASE);
asm(".symver old_dlclose, dlclose" BASE);
asm(".symver old_dlerror, dlerror" BASE);
asm(".symver old_dlopen, dlopen" BASE);
asm(".symver old_dlsym, dlsym" BASE);
asm(".symver old_exp, exp" BASE);
asm(".symver old_fxstat, __fxstat" BASE);
asm(".symver old_log, log" BASE);
asm(".symver old_pthread_create, pthread_create" BASE);
asm(".symver old_pthread_detach, pthread_detach" BASE);
asm(".symver old_pthread_join, pthread_join" BASE);
asm(".symver old_pthread_key_create, __pthread_key_create" BASE);
asm(".symver old_pthread_once, pthread_once" BASE);
asm(".symver old_pthread_sigmask, pthread_sigmask" BASE);

extern "C" {
int old_dladdr(const void* address, void* info);
int old_dlclose(void* library);
char* old_dlerror();
void* old_dlopen(const char* file, int mode);
void* old_dlsym(void* library, const char* name);
double old_exp(double x);
int old_fxstat(int version, int descriptor, struct stat* status);
double old_log(double x);
int old_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument);
int old_pthread_detach(pthread_t thread);
int old_pthread_join(pthread_t thread, void** result);
int old_pthread_key_create(pthread_key_t* key, void (*destroy)(void*));
int old_pthread_once(pthread_once_t* once, void (*body)());
int old_pthread_sigmask(int how, const sigset_t* set, sigset_t* before);

/// glibc 2.32 has this variable; never "single" is always right.
extern char __libc_single_threaded;
char __libc_single_threaded = 0;

int __wrap_dladdr(const void* address, void* info) { return old_dladdr(address, info); }
int __wrap_dlclose(void* library) { return old_dlclose(library); }
char* __wrap_dlerror() { return old_dlerror(); }
void* __wrap_dlopen(const char* file, int mode) { return old_dlopen(file, mode); }
void* __wrap_dlsym(void* library, const char* name) { return old_dlsym(library, name); }
double __wrap_exp(double x) { return old_exp(x); }
double __wrap_log(double x) { return old_log(x); }
int __wrap_fstat(int descriptor, struct stat* status) { return old_fxstat(stat_version, descriptor, status); }
int __wrap_fstat64(int descriptor, struct stat* status) { return old_fxstat(stat_version, descriptor, status); }  // the same on 64 bits
int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*), void* argument) {
  return old_pthread_create(thread, attributes, body, argument);
}
int __wrap_pthread_detach(pthread_t thread) { return old_pthread_detach(thread); }
int __wrap_pthread_join(pthread_t thread, void** result) { return old_pthread_join(thread, result); }
int __wrap___pthread_key_create(pthread_key_t* key, void (*destroy)(void*)) { return old_pthread_key_create(key, destroy); }
int __wrap_pthread_once(pthread_once_t* once, void (*body)()) { return old_pthread_once(once, body); }
int __wrap_pthread_sigmask(int how, const sigset_t* set, sigset_t* before) { return old_pthread_sigmask(how, set, before); }

/// Not in glibc 2.28: waits on the wall clock instead. A changed wall clock makes one wait too short or too long; callers look at the time
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
