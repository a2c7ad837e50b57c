//! Arguments and exit codes, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    countersign::cli::main()
}
