// The verbs of the command line. Each gets its own arguments, without the verb,
// and returns the exit status.
#pragma once

#include <string>
#include <vector>

namespace hakmem::telemetry {
struct PageHistory;
}

namespace hakmem::cli {

using Arguments = std::vector<std::string>;

// run [--listen HOST:PORT] PROGRAM [ARGUMENT...]: runs a program on hakmem's telemetry library.
int run(const Arguments& arguments);

// profile PID|HOST:PORT [--type TYPE] [--seconds N] -o FILE: saves the heap profile.
int profile(const Arguments& arguments);

// report PID|FILE: a readable account of one process, living or ended.
int report(const Arguments& arguments);

// top [--once]: all processes, one line each, live.
int top(const Arguments& arguments);

// check PID: whether the library is loaded in a process and what it does there.
int check(const Arguments& arguments);

// The last minutes of a process and its peak; `end` is when its last figures
// were measured, in nanoseconds since the epoch.
void print_history(const telemetry::PageHistory& history, uint64_t end);

// config PID [NAME=VALUE...]: the switches of a running process.
int config(const Arguments& arguments);

// HAKMEM_PAGES or its default.
std::string pages_directory();

// "12.3 MiB"; "-" for a figure that was not measured.
std::string size_text(double bytes);

// Prints one line to stderr and returns 2, the status of a wrong use.
int wrong_use(const std::string& message);

}  // namespace hakmem::cli
