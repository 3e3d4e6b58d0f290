//! AWS's shared files, which object_store does not read: profiles with keys, a region and an endpoint.
//!
//! What is read, and what is not (the decision and its reasons: `docs/src/decisions/0046-aws-profiles.md`):
//!
//! | | |
//! |---|---|
//! | files | `AWS_SHARED_CREDENTIALS_FILE` or `~/.aws/credentials`, `AWS_CONFIG_FILE` or `~/.aws/config` |
//! | profile | `AWS_PROFILE`, else `default`; the credentials file takes precedence |
//! | keys | `aws_access_key_id`, `aws_secret_access_key`, `aws_session_token`, `region`, `endpoint_url` |
//! | not read | `role_arn`, `source_profile`, SSO, `credential_process`, `services` sections: a named profile that needs one is an error that says how to export its credentials |
//! | precedence | the environment's own credentials, region and endpoint are kept |
//! | renewal | none: credentials with a session token are used until they expire |

use std::{collections::HashMap, path::PathBuf};

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use crate::environment::Variable;

/// Variables that select credentials by themselves.
const CREDENTIAL_VARIABLES: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// Keys of a profile that need a program, a browser or further requests.
const UNSUPPORTED_KEYS: [&str; 6] =
    ["credential_process", "role_arn", "sso_session", "sso_start_url", "sso_account_id", "login_session"];

type Section = HashMap<String, String>;

/// Adds to `builder` the keys, session token, region and endpoint of the selected profile where the environment has none, and
/// the endpoint in `AWS_ENDPOINT_URL_S3`.
///
/// # Errors
/// Returns an error for a named profile that does not exist or needs an unsupported source of credentials, half a key pair,
/// and a named file that cannot be read. No error holds a secret.
pub(crate) fn apply(builder: AmazonS3Builder, lookup: Variable<'_>) -> Result<AmazonS3Builder, String> {
    let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
    let any = |names: &[&str]| names.iter().any(|name| set(name).is_some());
    let mut builder = builder;
    let endpoint = set("AWS_ENDPOINT_URL_S3");
    let has_endpoint = endpoint.is_some() || any(&["AWS_ENDPOINT", "AWS_ENDPOINT_URL"]);
    if let Some(endpoint) = endpoint {
        builder = builder.with_config(AmazonS3ConfigKey::Endpoint, endpoint);
    }
    if any(&CREDENTIAL_VARIABLES) {
        return Ok(builder);
    }
    let named = set("AWS_PROFILE");
    let name = named.clone().unwrap_or_else(|| "default".into());
    let Some(profile) = profile(&name, &set)? else {
        return match named {
            None => Ok(builder),
            Some(name) => Err(format!(
                "the AWS profile `{name}` (AWS_PROFILE) is in neither the credentials file nor the config file: {EXPORT}"
            )),
        };
    };
    match (profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")) {
        (Some(id), Some(secret)) => {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            if let Some(token) = profile.get("aws_session_token") {
                builder = builder.with_token(token);
            }
        }
        (None, None) => {
            // Without AWS_PROFILE the machine's own credentials may be meant.
            if let (Some(name), Some(other)) =
                (&named, UNSUPPORTED_KEYS.iter().find(|key| profile.contains_key(**key)))
            {
                return Err(format!(
                    "the AWS profile `{name}` (AWS_PROFILE) has no access key but `{other}`, which is not supported: {EXPORT}"
                ));
            }
        }
        _ => {
            return Err(format!(
                "the AWS profile `{name}` needs both aws_access_key_id and aws_secret_access_key"
            ));
        }
    }
    if let Some(region) = profile.get("region").filter(|_| !any(&["AWS_REGION", "AWS_DEFAULT_REGION"])) {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = profile.get("endpoint_url").filter(|_| !has_endpoint) {
        builder = builder.with_endpoint(endpoint);
    }
    Ok(builder)
}

/// What to do about a profile that cannot be used.
const EXPORT: &str = "put credentials into the environment, for example by `eval \"$(aws configure export-credentials \
                      --profile NAME --format env)\"`";

/// Returns a profile's settings from both files. The credentials file takes precedence.
fn profile(name: &str, set: Variable<'_>) -> Result<Option<Section>, String> {
    let config = sections(&text("AWS_CONFIG_FILE", "config", set)?, in_config);
    let credentials = sections(&text("AWS_SHARED_CREDENTIALS_FILE", "credentials", set)?, in_credentials);
    match (config.get(name), credentials.get(name)) {
        (None, None) => Ok(None),
        (config, credentials) => {
            let mut both = config.cloned().unwrap_or_default();
            both.extend(credentials.cloned().unwrap_or_default());
            Ok(Some(both))
        }
    }
}

/// Returns the profile of a section in the config file, which has other sections too.
fn in_config(title: &str) -> Option<&str> {
    if title == "default" { Some(title) } else { title.strip_prefix("profile ").map(str::trim) }
}

/// Returns the profile of a section in the credentials file.
fn in_credentials(title: &str) -> Option<&str> {
    Some(title)
}

/// Returns the text of a shared file, empty where there is none.
fn text(variable: &str, default: &str, set: Variable<'_>) -> Result<String, String> {
    let named = set(variable).map(PathBuf::from);
    let home = || set("HOME").map(|home| PathBuf::from(home).join(".aws").join(default));
    let Some(path) = named.clone().or_else(home) else { return Ok(String::new()) };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if named.is_some() && error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{} ({variable}) cannot be read: {error}", path.display()))
        }
        Err(_) => Ok(String::new()),
    }
}

/// Returns the sections of a shared file by profile. `profile_of` returns the profile of a section's title, if it is one.
fn sections(text: &str, profile_of: fn(&str) -> Option<&str>) -> HashMap<String, Section> {
    let mut sections: HashMap<String, Section> = HashMap::new();
    let mut current = None;
    for line in text.lines() {
        // Indented lines belong to the setting before them, which is of another service.
        let nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            current = profile_of(title.trim()).map(str::to_owned);
            if let Some(name) = &current {
                sections.entry(name.clone()).or_default();
            }
        } else if let (Some(name), Some((key, value)), false) = (&current, line.split_once('='), nested) {
            let value = value.split(" #").next().unwrap_or_default().trim();
            if !value.is_empty() {
                let key = key.trim().to_ascii_lowercase();
                sections.entry(name.clone()).or_default().insert(key, value.to_owned());
            }
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS_FILE: &str = "[default]\naws_access_key_id = AKDEFAULT\naws_secret_access_key=secret/default==\n\
        # a comment\n[work]\naws_access_key_id=AKWORK\naws_secret_access_key=secretwork\naws_session_token=tokenwork\n\
        [half]\naws_access_key_id=AKHALF\n";
    const CONFIG_FILE: &str = "[default]\nregion = eu-west-1\n[profile work]\nregion=us-west-2\n\
        endpoint_url = https://s3.work.example\ns3 =\n  region = nested\n[profile login]\nsso_session = company\n\
        [sso-session company]\nregion = nowhere\n[profile empty]\n";

    /// Returns what `apply` sets for an environment: key, secret, token, region, endpoint.
    fn applied(set: &[(&str, &str)]) -> Result<[Option<String>; 5], String> {
        let folder = tempfile::tempdir().expect("folder");
        let files = folder.path().join(".aws");
        std::fs::create_dir(&files).expect("folder");
        std::fs::write(files.join("credentials"), CREDENTIALS_FILE).expect("file");
        std::fs::write(files.join("config"), CONFIG_FILE).expect("file");
        let home = folder.path().display().to_string();
        let builder = apply(AmazonS3Builder::new(), &|name| {
            let found = set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            found.or_else(|| (name == "HOME").then(|| home.clone()))
        })?;
        use AmazonS3ConfigKey as Key;
        let keys = [Key::AccessKeyId, Key::SecretAccessKey, Key::Token, Key::Region, Key::Endpoint];
        Ok(keys.map(|key| builder.get_config_value(&key)))
    }

    fn some(values: [&str; 5]) -> [Option<String>; 5] {
        values.map(|value| Some(value.to_owned()).filter(|value| !value.is_empty()))
    }

    #[test]
    fn profiles_add_what_the_environment_lacks() {
        for (set, expected) in [
            (vec![], ["AKDEFAULT", "secret/default==", "", "eu-west-1", ""]),
            (
                vec![("AWS_PROFILE", "work")],
                ["AKWORK", "secretwork", "tokenwork", "us-west-2", "https://s3.work.example"],
            ),
            (
                vec![("AWS_PROFILE", "work"), ("AWS_REGION", "x"), ("AWS_ENDPOINT_URL_S3", "https://own")],
                ["AKWORK", "secretwork", "tokenwork", "", "https://own"],
            ),
            (vec![("AWS_PROFILE", "work"), ("AWS_ACCESS_KEY_ID", "AKENV")], ["", "", "", "", ""]),
            (vec![("AWS_PROFILE", "none"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "x")], ["", "", "", "", ""]),
            (vec![("AWS_PROFILE", "empty")], ["", "", "", "", ""]),
            (vec![("HOME", "/nowhere")], ["", "", "", "", ""]),
        ] {
            assert_eq!(applied(&set).expect("applies"), some(expected), "{set:?}");
        }
    }

    #[test]
    fn unusable_profiles_say_what_to_do() {
        for (profile, word) in
            [("none", "neither"), ("login", "`sso_session`"), ("half", "both aws_access_key_id")]
        {
            let error = applied(&[("AWS_PROFILE", profile)]).expect_err(profile);
            assert!(error.contains(&format!("`{profile}`")) && error.contains(word), "{error}");
            assert!(profile == "half" || error.contains("export-credentials"), "{error}");
        }
        let error = applied(&[("AWS_CONFIG_FILE", "/")]).expect_err("a folder");
        assert!(error.contains("AWS_CONFIG_FILE"), "{error}");
    }
}
