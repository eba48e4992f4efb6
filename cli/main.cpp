#include "cli/application.hpp"

int main(int argc, char** argv) { return static_cast<int>(troupe::cli::run_command_line(argc, argv)); }
