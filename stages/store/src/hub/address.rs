//! A dataset by URL, and the hub's endpoint and token.

use std::{fmt, path::PathBuf};

use object_store::{HeaderValue, path::Path};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

/// Characters of a revision that a canonical URL escapes.
const REVISION_ESCAPES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The hub's endpoint without `HF_ENDPOINT`.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A dataset on the hub at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// `ORG/NAME`, or `NAME` alone for a few old datasets.
    name: String,
    /// A branch, tag or commit; `main` if absent.
    revision: Option<String>,
}

impl Dataset {
    /// Parses `hf://datasets/ORG/NAME[@REVISION]/PATH` into the dataset and the path in it.
    ///
    /// A name without organisation is accepted where nothing or a revision follows it; otherwise the first two parts are
    /// an organisation and a name. Slashes of a revision are written `%2F`, except in `refs/pr/N` and
    /// `refs/convert/NAME`, which may be written as they are.
    ///
    /// # Errors
    /// Returns what is wrong, without anything that may be secret.
    pub fn parse(url: &Url) -> Result<(Self, Path), String> {
        let host = url.host_str().unwrap_or_default();
        if host != "datasets"
            || !url.username().is_empty()
            || url.password().is_some()
            || url.port().is_some()
        {
            return Err("a dataset on the hub is written hf://datasets/ORG/NAME[@REVISION]/PATH".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(
                "a path on the hub has neither query nor fragment; write ? as %3F and # as %23".into()
            );
        }
        let parts: Vec<&str> = url.path().split('/').filter(|part| !part.is_empty()).collect();
        let (name, mut rest) = match parts.as_slice() {
            [] => return Err("no dataset: it is written hf://datasets/ORG/NAME[@REVISION]/PATH".into()),
            [legacy, rest @ ..] if legacy.contains('@') || rest.is_empty() => ((*legacy).to_owned(), rest),
            [organisation, name, rest @ ..] => (format!("{organisation}/{name}"), rest),
            [_] => return Err("no dataset".into()),
        };
        let (name, revision) = match name.split_once('@') {
            None => (name, None),
            Some((name, "refs")) => match rest {
                [kind @ ("pr" | "convert"), which, further @ ..] => {
                    rest = further;
                    (name.to_owned(), Some(format!("refs/{kind}/{which}")))
                }
                _ => return Err("the revision `refs` is followed by /pr/N or /convert/NAME".into()),
            },
            Some((name, revision)) => (name.to_owned(), Some(revision.to_owned())),
        };
        if !name.split('/').all(is_valid_name) {
            return Err(format!("`{name}` is not a valid dataset name"));
        }
        let revision = revision.as_deref().map(parse_revision).transpose()?;
        // A canonical URL must parse to the same dataset: `NAME/PATH` would be an organisation and a name.
        let revision = revision.or_else(|| (!name.contains('/')).then(|| "main".to_owned()));
        let path =
            Path::from_url_path(rest.join("/")).map_err(|e| format!("the path cannot be used: {e}"))?;
        Ok((Self { name, revision }, path))
    }

    /// Returns the parts of `ORG/NAME`.
    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        self.name.split('/')
    }

    /// Returns the branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

/// Returns whether an organisation or a repository may have this name.
pub(super) fn is_valid_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(known)
}

/// Decodes a revision as it stands behind `@` in a URL.
pub(super) fn parse_revision(text: &str) -> Result<String, String> {
    let revision = percent_decode_str(text).decode_utf8().map_err(|e| e.to_string())?;
    let is_odd = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(char::is_control);
    if revision.split('/').any(is_odd) {
        return Err("the revision after @ is empty or malformed".into());
    }
    Ok(revision.into_owned())
}

/// Writes a revision as it stands behind `@` in a URL.
pub(super) fn escape_revision(revision: &str) -> impl fmt::Display {
    utf8_percent_encode(revision, REVISION_ESCAPES)
}

/// Writes the prefix of all its canonical URLs: `hf://datasets/ORG/NAME[@REVISION]`.
impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://datasets/{}", self.name)?;
        match &self.revision {
            Some(revision) => write!(f, "@{}", escape_revision(revision)),
            None => Ok(()),
        }
    }
}

/// The hub's endpoint and the token to use there.
#[derive(Clone)]
pub struct HubSettings {
    /// Base of all URLs.
    pub(super) endpoint: Url,
    /// The `Authorization` header, marked as sensitive.
    pub(super) authorization: Option<HeaderValue>,
}

impl HubSettings {
    /// Reads the settings from an environment: `HF_ENDPOINT`, and the token in `HF_TOKEN`, else in the file
    /// `HF_TOKEN_PATH`, else in the file `token` in `HF_HOME`, `XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface`.
    ///
    /// # Errors
    /// Returns an error for an endpoint that is not an http(s) URL, a named token file that cannot be read, and a token
    /// that no header can hold.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let text = lookup("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.into());
        let endpoint = Url::parse(text.trim()).map_err(|e| format!("HF_ENDPOINT is not a URL: {e}"))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.query().is_some() {
            return Err("HF_ENDPOINT is not the URL of a web server (http or https)".into());
        }
        if !endpoint.username().is_empty() || endpoint.password().is_some() {
            return Err("HF_ENDPOINT may hold no user and password; set HF_TOKEN".into());
        }
        let authorization = match lookup("HF_TOKEN") {
            Some(token) => Some(bearer(&token)?),
            None => match token_file(&lookup)? {
                Some(token) => Some(bearer(&token)?),
                None => None,
            },
        };
        Ok(Self { endpoint, authorization })
    }

    /// Returns the token, to be redacted from texts.
    pub(super) fn token(&self) -> Option<&str> {
        self.authorization.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")
    }
}

/// Returns Hugging Face's folder: `HF_HOME`, `XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface`.
pub(super) fn cache_home(lookup: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let home = || lookup("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = || lookup("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    let expand = |text: String| match (text.strip_prefix("~/"), lookup("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(text),
    };
    lookup("HF_HOME").map(expand).or_else(|| Some(cache()?.join("huggingface")))
}

fn token_file(lookup: &impl Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    let named = lookup("HF_TOKEN_PATH").map(PathBuf::from);
    let path = named.clone().or_else(|| Some(cache_home(lookup)?.join("token")));
    let Some(path) = path else { return Ok(None) };
    match std::fs::read_to_string(&path) {
        Ok(token) => Ok(Some(token).filter(|token| !token.trim().is_empty())),
        Err(error) if named.is_some() && error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("the token file {} (HF_TOKEN_PATH) cannot be read: {error}", path.display()))
        }
        Err(_) => Ok(None),
    }
}

fn bearer(token: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| "the Hugging Face token (HF_TOKEN) has characters that no token may have")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Hides the token.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = if self.authorization.is_some() { "a token" } else { "no token" };
        write!(f, "HubSettings({}, {token})", self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, String), String> {
        let (dataset, path) = Dataset::parse(&Url::parse(text).expect(text))?;
        Ok((dataset.to_string(), path.to_string()))
    }

    #[test]
    fn urls_parse_to_dataset_revision_and_path() {
        for (text, dataset, path) in [
            ("hf://datasets/o/n", "hf://datasets/o/n", ""),
            ("hf://datasets/o/n/a%20b/0.tar", "hf://datasets/o/n", "a b/0.tar"),
            ("hf://datasets/o/n@v1.0/0.tar", "hf://datasets/o/n@v1.0", "0.tar"),
            ("hf://datasets/o/n@refs/pr/7/0.tar", "hf://datasets/o/n@refs%2Fpr%2F7", "0.tar"),
            ("hf://datasets/o/n@refs%2Fpr%2F7/0.tar", "hf://datasets/o/n@refs%2Fpr%2F7", "0.tar"),
            ("hf://datasets/o/n@refs/convert/parquet/", "hf://datasets/o/n@refs%2Fconvert%2Fparquet", ""),
            ("hf://datasets/squad/", "hf://datasets/squad@main", ""),
            ("hf://datasets/squad@main/a/b.tar", "hf://datasets/squad@main", "a/b.tar"),
            ("hf://datasets/A/B/c", "hf://datasets/A/B", "c"),
        ] {
            let got = parse(text).expect(text);
            assert_eq!(got, (dataset.to_owned(), path.to_owned()), "{text}");
            assert_eq!(parse(&got.0).expect(text).0, got.0, "{text}: canonical URLs are stable");
        }
    }

    #[test]
    fn urls_of_other_things_are_errors() {
        for text in [
            "hf://models/o/n/x",
            "hf://datasets",
            "hf://datasets/",
            "hf://u:p@datasets/o/n/x",
            "hf://datasets/o/n/x?y",
            "hf://datasets/o/n@/x",
            "hf://datasets/o/n@refs/x",
            "hf://datasets/o/n@a%2F..%2Fb/x",
            "hf://datasets/o/.n/x",
            "hf://datasets/o/n%2Fm/x",
        ] {
            parse(text).expect_err(text);
        }
    }

    #[test]
    fn tokens_come_from_variable_or_file_and_stay_hidden() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "hf_file\n").expect("file");
        let (file, home) = (file.display().to_string(), folder.path().display().to_string());
        for (set, token) in [
            (vec![("HF_TOKEN", "hf_variable"), ("HF_HOME", home.as_str())], Some("hf_variable")),
            (vec![("HF_TOKEN", " "), ("HF_TOKEN_PATH", file.as_str())], Some("hf_file")),
            (vec![("HF_HOME", home.as_str())], Some("hf_file")),
            (vec![("HF_TOKEN_PATH", "/nowhere/token")], None),
            (vec![("HOME", "/nowhere")], None),
            (vec![], None),
        ] {
            let find = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            let settings = HubSettings::from_lookup(find).expect("settings");
            assert_eq!(settings.token(), token);
            assert!(!format!("{settings:?}").contains("hf_"), "{settings:?}");
        }
        for (name, value) in
            [("HF_ENDPOINT", "ftp://x"), ("HF_TOKEN", "hf_\u{7}"), ("HF_TOKEN_PATH", home.as_str())]
        {
            let error = HubSettings::from_lookup(|n| (n == name).then(|| value.to_owned())).expect_err(name);
            assert!(error.contains(name) && !error.contains("hf_"), "{error}");
        }
    }
}
