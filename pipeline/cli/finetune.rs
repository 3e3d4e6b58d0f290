//! `recaption finetune ARGS...`: hands over to `recaption-finetune`, a program of its own so that this one builds without
//! its framework.
//!
//! All arguments after the word are passed on unchanged, `--help` included. The process becomes that program, with its signals
//! and exit codes.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

/// The word on the command line.
pub(super) const WORD: &str = "finetune";
/// The program.
const PROGRAM: &str = "recaption-finetune";

/// Replaces this process with the program. Returns only when that fails.
///
/// # Errors
/// When it is not found, or cannot be started.
pub(super) fn hand_over(arguments: &[OsString]) -> anyhow::Result<std::convert::Infallible> {
    let own = env::current_exe().context("cannot find the folder of this program")?;
    let own_folder = own.parent().unwrap_or(Path::new("/"));
    let path = env::var_os("PATH").unwrap_or_default();
    let Some(program) = find(own_folder, &path) else {
        bail!(
            "{PROGRAM}, the program that trains, is missing: it is neither in {} nor in a folder of PATH; get it with \
             `cargo build --release -p {PROGRAM}`, or `make install FINETUNE=1`",
            own_folder.display()
        )
    };
    let error = Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// Finds the first executable of that name, in `own_folder` and then in the folders of `path`.
fn find(own_folder: &Path, path: &OsStr) -> Option<PathBuf> {
    // An empty folder would be whichever one is worked in.
    let folders = env::split_paths(path).filter(|folder| !folder.as_os_str().is_empty());
    std::iter::once(own_folder.to_owned()).chain(folders).map(|folder| folder.join(PROGRAM)).find(|program| {
        program.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}
