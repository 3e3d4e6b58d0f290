//! A file for node exporter's textfile collector: the final numbers of a run that nobody scrapes, as cron starts them.
//!
//! Every sample has the label `output`, so that the files of several jobs on one machine do not collide. The file is replaced by
//! a rename: a collector sees a whole one. The time of the last success is taken over from the file before.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, bail};
use recaption_schemas::redact_url;

use super::{
    collect::write_all,
    exposition::Exposition,
    families::{LAST_DURATION, LAST_END, LAST_EXIT, LAST_SUCCESS, Scope},
    monitor::Monitor,
    process::unix_seconds,
};
use crate::run::ExitCode;

/// Checks that the folder of the file is there, before anything else is done.
///
/// # Errors
/// When it is not.
pub(crate) fn check_textfile(path: &Path) -> anyhow::Result<()> {
    let folder = folder_of(path);
    if !folder.is_dir() {
        bail!(
            "metrics cannot be written to {}, as run.metrics_file asks: {} is not a folder; create it",
            path.display(),
            folder.display()
        );
    }
    Ok(())
}

/// Writes the metrics of a run that ended with this exit code. `output` is the output's URL or path.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_textfile(
    path: &Path,
    monitor: &Monitor,
    output: &str,
    code: ExitCode,
) -> anyhow::Result<()> {
    let mut out = Exposition::new(Scope::File, Some(("output", output_label(output))));
    write_all(monitor, &mut out);
    let now = unix_seconds(SystemTime::now());
    let is_success = matches!(code, ExitCode::Done | ExitCode::Permanent);
    let before = fs::read_to_string(path).unwrap_or_default();
    let success = is_success.then_some(now).or_else(|| last_success(&before));
    out.single(&LAST_END, now);
    out.single(&LAST_DURATION, monitor.elapsed().as_secs_f64());
    out.single(&LAST_EXIT, code as u8);
    let mut last = out.family(&LAST_SUCCESS);
    if let Some(success) = success {
        last.sample(&[], success);
    }
    replace(path, &out.into_text())
        .with_context(|| format!("metrics cannot be written to {}", path.display()))
}

/// An output by its absolute path, or its URL without secrets.
fn output_label(output: &str) -> String {
    if output.contains("://") {
        return redact_url(output);
    }
    std::path::absolute(output).unwrap_or_else(|_| PathBuf::from(output)).display().to_string()
}

/// Finds the time of the last success in an earlier file.
fn last_success(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(LAST_SUCCESS.name))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Writes a new file beside the old one, whose name the collector ignores, and renames it.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder_of(path).join(format!(".{name}.{}.tmp", std::process::id()));
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What is left of a file that could not be written.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path, code: ExitCode) -> (Option<f64>, String) {
        write_textfile(path, &Monitor::default(), "s3://u:p@bucket/out?sig=1", code).expect("a file");
        let text = fs::read_to_string(path).expect("text");
        (last_success(&text), text)
    }

    #[test]
    fn last_success_outlives_failures() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("recaption.prom");
        let (success, text) = written(&path, ExitCode::Failed);
        assert_eq!(success, None);
        assert!(text.contains("recaption_last_run_exit_code{output=\"s3://bucket/out\"} 1\n"), "{text}");
        let (first, _) = written(&path, ExitCode::Done);
        assert!(first.is_some());
        assert_eq!(written(&path, ExitCode::Incomplete).0, first);
        assert!(written(&path, ExitCode::Permanent).0 > first);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "no file is left over");
    }

    #[test]
    fn missing_folders_are_found_before_the_run() {
        let error = check_textfile(Path::new("/no/such/folder/x.prom")).expect_err("an error").to_string();
        assert!(error.contains("/no/such/folder is not a folder; create it"), "{error}");
        check_textfile(Path::new("x.prom")).expect("the current folder");
    }
}
