//! How commands that are configured by the last run find it, and go where it was started.

use std::path::Path;

use recaption_input::shards::expand_braces;
use recaption_store::{Location, Stores};

use crate::{config::environment_store_settings, run::LastRun};

/// Returns the record that says how an output was made: the last one, or the last one with inputs if there is one and they are
/// needed.
pub(super) async fn configuring(
    last: LastRun,
    output: &Location,
    needs_inputs: bool,
) -> anyhow::Result<LastRun> {
    let with_inputs = if needs_inputs { last.with_inputs(output).await? } else { None };
    Ok(with_inputs.unwrap_or(last))
}

/// Goes where the last run was started, so that its paths mean the same, if that place is still there.
pub(super) fn enter(last: &LastRun) {
    if !last.directory.is_empty() && std::env::set_current_dir(Path::new(&last.directory)).is_err() {
        tracing::warn!(
            directory = last.directory,
            "the last run's directory is gone; its paths are taken from here"
        );
    }
}

/// Returns stores with the settings of the environment, for an output whose run is not known yet.
pub(super) fn environment_stores() -> anyhow::Result<Stores> {
    Ok(Stores::new(environment_store_settings()?))
}

/// Returns a path so that it means the same in another directory; a URL as it is.
///
/// # Errors
/// An empty path, or a working directory that is gone.
pub(super) fn absolute(name: &str) -> std::io::Result<String> {
    if name.contains("://") {
        return Ok(name.to_owned());
    }
    Ok(std::path::absolute(name)?.display().to_string())
}

/// Returns patterns so that they mean the same in another directory: those of the lines of a local `@FILE` too.
///
/// # Errors
/// As [`absolute`].
pub(super) fn absolute_patterns(patterns: &[String]) -> std::io::Result<Vec<String>> {
    let mut all = Vec::new();
    for pattern in patterns {
        let Some(file) = pattern.strip_prefix('@') else {
            all.extend(absolute_pattern(pattern)?);
            continue;
        };
        let file = absolute(file)?;
        // What is wrong with the file is said by whoever lists the inputs.
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let lines = text.lines().map(|line| line.trim().trim_start_matches('\u{feff}'));
        let named: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let is_relative = |line: &&str| !line.starts_with('/') && !line.contains("://");
        if named.iter().any(|line| line.starts_with('@')) || !named.iter().any(is_relative) {
            all.push(format!("@{file}"));
            continue;
        }
        for line in named {
            all.extend(absolute_pattern(line)?);
        }
    }
    Ok(all)
}

/// Returns what one pattern means in another directory. Braces at its begin may hold absolute and relative paths.
fn absolute_pattern(pattern: &str) -> std::io::Result<Vec<String>> {
    match expand_braces(pattern) {
        Ok(names) if pattern.starts_with('{') => names.iter().map(|name| absolute(name)).collect(),
        _ => Ok(vec![absolute(pattern)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_the_same_elsewhere() {
        let here = std::env::current_dir().expect("a directory").display().to_string();
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            format!("@{}", path.display())
        };
        let whole = file("whole", "/data/a.tar\ns3://bucket/b.tar\n");
        let relative = file("relative", "# two\n\na.tar\n/data/b.tar\n");
        let cases = [
            ("in/*.tar", vec![format!("{here}/in/*.tar")]),
            ("in/", vec![format!("{here}/in/")]),
            ("in/{0..1}.tar", vec![format!("{here}/in/{{0..1}}.tar")]),
            ("{/a,b}.tar", vec!["/a.tar".to_owned(), format!("{here}/b.tar")]),
            ("s3://bucket/{a,b}/*.tar", vec!["s3://bucket/{a,b}/*.tar".to_owned()]),
            (&whole, vec![whole.clone()]),
            (&relative, vec![format!("{here}/a.tar"), "/data/b.tar".to_owned()]),
            ("@no-such-file", vec![format!("@{here}/no-such-file")]),
            ("@s3://bucket/list", vec!["@s3://bucket/list".to_owned()]),
        ];
        for (pattern, wanted) in cases {
            assert_eq!(absolute_patterns(&[pattern.to_owned()]).expect("paths"), wanted, "{pattern}");
        }
    }
}
