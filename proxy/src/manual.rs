//! Man pages, and completions for shells, made from the definition that the command line is parsed by:
//! packages carry them.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

/// What each shell finds by its name in a directory of its own.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes `man/baton.1` and a page for each command, and `completions/`.
///
/// # Errors
/// When the directory cannot be written to.
pub fn write(directory: &Path) -> io::Result<()> {
    let (pages, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(Cli::command(), pages)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut Cli::command(), "baton", &completions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_a_page_each_and_hidden_ones_have_none() {
        let directory = tempfile::tempdir().expect("temp dir");
        write(directory.path()).expect("written");
        let page = |name: &str| fs::read_to_string(directory.path().join("man").join(name));
        assert!(
            page("baton.1").expect("a page").contains("The HTTPS front door of one Linux host")
        );
        assert!(page("baton-upgrade.1").expect("a page").contains("canary"));
        assert!(page("baton-worker.1").is_err());
        for file in ["baton.bash", "_baton", "baton.fish"] {
            let text = fs::read_to_string(directory.path().join("completions").join(file));
            assert!(text.expect("completions").contains("maintenance"), "{file}");
        }
    }
}
