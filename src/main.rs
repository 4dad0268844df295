//! The program. See `imis_gateway::cli`.

fn main() {
    std::process::exit(imis_gateway::cli::main());
}
