# Builds for 64-bit ARM with clang and lld of the host. cross/build_wheel.py sets the variables; each is a full path.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_SYSROOT $ENV{EDGEFACE_CROSS_SYSROOT})
set(CMAKE_C_COMPILER $ENV{EDGEFACE_CROSS_CLANG})
set(CMAKE_C_COMPILER_TARGET aarch64-linux-gnu)
# ARMv8.0-A is what a Cortex-A53 and A72 have. Atomics stay inline: the outlined ones hold newer instructions as well.
set(CMAKE_C_FLAGS_INIT
  "--gcc-toolchain=$ENV{EDGEFACE_CROSS_SYSROOT}/usr -march=armv8-a -mtune=cortex-a72 -mno-outline-atomics")
foreach(kind EXE MODULE SHARED)
  set(CMAKE_${kind}_LINKER_FLAGS_INIT
    "--ld-path=$ENV{EDGEFACE_CROSS_LLD} -static-libgcc -Wl,--no-undefined -Wl,-z,relro,-z,now")
endforeach()
set(CMAKE_AR $ENV{EDGEFACE_CROSS_AR})
set(CMAKE_RANLIB $ENV{EDGEFACE_CROSS_RANLIB})
set(CMAKE_STRIP $ENV{EDGEFACE_CROSS_STRIP})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
