# A sanitizer brings a malloc of its own, so nothing can be preloaded: here the programs are linked with the
# allocator and telemetry as they are in the library, and call it by its C names (linked_in.map). What libc and
# the sanitizer allocate for themselves stays theirs. Shorter than elsewhere: a minute for all.
add_library(stress_linked_in OBJECT linked_in.cc ${CMAKE_SOURCE_DIR}/telemetry/preload.cpp)
target_link_libraries(stress_linked_in PUBLIC stress_build)
target_compile_definitions(stress_linked_in PUBLIC HAKMEM_LINKED_IN)
# Where it optimises less gcc takes a block for freed whose realloc failed.
target_compile_options(stress_linked_in PUBLIC $<$<CXX_COMPILER_ID:GNU>:-Wno-use-after-free>)
set(map ${CMAKE_CURRENT_SOURCE_DIR}/linked_in.map)

# hakmem_sanitized_test(NAME PROGRAM [ARGUMENT...]); ${variables} are set for it
function(hakmem_sanitized_test name program)
  if(NOT TARGET stress_${program})
    hakmem_stress_program(${program} ${program}.cc stress_linked_in hakmem_core hakmem_telemetry_core)
    target_sources(stress_${program} PRIVATE $<TARGET_OBJECTS:hakmem_exported>)
    target_link_options(stress_${program} PRIVATE LINKER:--version-script=${map})
    set_target_properties(stress_${program} PROPERTIES LINK_DEPENDS ${map})
  endif()
  add_test(NAME stress.${name} COMMAND ${CMAKE_CROSSCOMPILING_EMULATOR} $<TARGET_FILE:stress_${program}> ${ARGN})
  # A child of a process with threads goes on, and looks for no leaks of the sanitizer's malloc.
  set_tests_properties(stress.${name} PROPERTIES LABELS stress TIMEOUT 300 PROCESSORS 2
    ENVIRONMENT "TSAN_OPTIONS=die_after_fork=0;ASAN_OPTIONS=detect_leaks=0;HAKMEM_SAMPLE_BYTES=20000;${variables}"
    ENVIRONMENT_MODIFICATION "HAKMEM_LISTEN=unset:;HAKMEM_PROGRAM=unset:;HAKMEM_PAGES=unset:;ANY_ALLOCATOR=unset:")
endfunction()

foreach(name api_errors new_delete signals fork_storm fault_injection purge_storm)
  hakmem_sanitized_test(${name} ${name})
endforeach()
# That of threads takes ten times as long as that of addresses.
if(HAKMEM_SANITIZE MATCHES "thread")
  set(part 1)
else()
  set(part 5)
endif()
function(hakmem_scaled_test name program count)
  math(EXPR count "${count} * ${part}")
  list(TRANSFORM ARGN REPLACE "^COUNT$" "${count}")
  hakmem_sanitized_test(${name} ${program} ${ARGN})
endfunction()
hakmem_scaled_test(shadow_model_one_thread shadow_model 10000 1 COUNT 1)
hakmem_scaled_test(shadow_model_threads shadow_model 6000 4 COUNT 11 12)
hakmem_scaled_test(threads_storm threads 500 storm COUNT)
foreach(group living handover end)
  hakmem_sanitized_test(threads_${group} threads ${group})
endforeach()
hakmem_scaled_test(bounds bounds 20 COUNT)
