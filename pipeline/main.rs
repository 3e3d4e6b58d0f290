//! The `recaption` program.

fn main() -> std::process::ExitCode {
    recaption::cli::main()
}
