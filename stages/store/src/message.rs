//! An object store's error as one line for people.

use object_store::Error;
use recaption_schemas::redact_text;

use crate::ErrorKind;

/// Longest detail of a message, in characters.
const MAX_DETAIL_CHARS: usize = 300;

/// Returns whether `error` is a store client's own, with URL, timing and XML in its text. Every error of this crate that wraps
/// one prints its [`user_message`] instead.
#[must_use]
pub fn is_client_error(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<Error>()
}

/// Returns the error in one line: what to do if that is known, then the store's own detail without its URL, timings and
/// XML. It holds no secret.
#[must_use]
pub fn user_message(error: &Error) -> String {
    let text = error.to_string();
    let kind = ErrorKind::of(error);
    let advice = match error {
        _ if kind == ErrorKind::Full => "no space left: make room, then run the same command again",
        _ if kind == ErrorKind::Changed => {
            "the object changed while it was read; the next run reads it again"
        }
        _ if text.contains("NoSuchBucket") || text.contains("ContainerNotFound") => {
            return "there is no such bucket or container: check its name, region and endpoint".to_owned();
        }
        Error::NotFound { source, .. } => return not_found(source.as_ref()),
        Error::PermissionDenied { .. } => "access is denied: check the credentials and their permissions",
        Error::Unauthenticated { .. } => "no valid credentials: set those that this store expects",
        _ if text.contains("SignatureDoesNotMatch") || text.contains("InvalidAccessKeyId") => {
            "the credentials are wrong: check key, secret and region"
        }
        _ if text.contains("169.254.169.254") || text.contains("metadata.google.internal") => {
            "no credentials are set, and this machine has no cloud identity"
        }
        _ if kind == ErrorKind::Exhausted => "the request failed after several attempts",
        _ => "",
    };
    let detail = redact_text(&detail(&text));
    if advice.is_empty() { detail } else { format!("{advice} ({detail})") }
}

/// The text for an object that does not exist. A HEAD request does not tell a missing object from a missing bucket.
fn not_found(source: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = Some(source);
    while let Some(at) = cause {
        if let Some(error) = at.downcast_ref::<std::io::Error>() {
            return error.to_string();
        }
        cause = at.source();
    }
    let text = source.to_string();
    if text.contains(PERFORMING) || text.is_empty() {
        return "not found: there is no such object, or no such bucket".to_owned();
    }
    redact_text(&shorten(&text))
}

/// How object_store begins the error of a request.
const PERFORMING: &str = "Error performing ";

/// Returns a request's error without URL, timings and the body's XML: `PUT, 8 retries: status 503 Slow Down: SlowDown`.
fn detail(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((_, request)) = flat.split_once(PERFORMING) else { return shorten(&flat) };
    let Some((request, cause)) = request.split_once(" - ") else { return shorten(&flat) };
    let method = request.split(' ').next().unwrap_or_default();
    let retries = request.split_once(", after ").and_then(|(_, rest)| rest.split_once(" retries"));
    let retries = retries.or_else(|| request.split_once(" after ")?.1.split_once(" retries"));
    let retries = retries.map_or(String::new(), |(number, _)| format!(", {number} retries"));
    let cause = match cause.split_once("Server returned non-2xx status code: ") {
        Some((_, status)) => {
            let (status, body) = status.split_once(':').unwrap_or((status, ""));
            format!("status {}{}", status.trim(), body_summary(body))
        }
        None => match cause.split_once("Server returned error response: ") {
            Some((_, body)) => format!("error response{}", body_summary(body)),
            None => cause.to_owned(),
        },
    };
    shorten(&format!("{method}{retries}: {cause}"))
}

/// Returns `: CODE: MESSAGE` of a body in XML, the body itself where it is plain text, and nothing of other markup.
fn body_summary(body: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim().to_owned())
    };
    let found: Vec<String> = [element("Code"), element("Message")].into_iter().flatten().collect();
    let body = body.trim();
    match found.is_empty() {
        false => format!(": {}", found.join(": ")),
        true if body.is_empty() || body.starts_with('<') => String::new(),
        true => format!(": {body}"),
    }
}

fn shorten(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(MAX_DETAIL_CHARS) {
        Some((at, _)) => format!("{}...", &flat[..at]),
        None => flat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(source: &str) -> Error {
        Error::Generic { store: "S3", source: source.into() }
    }

    /// How object_store words the error of a request.
    fn request(method: &str, retries: &str, cause: &str) -> String {
        format!("Error performing {method} http://127.0.0.1:5000/data/a.tar in 9.454233ms{retries} - {cause}")
    }

    #[test]
    fn message_says_what_to_do_and_no_secret() {
        let error = Error::PermissionDenied {
            path: "x".into(),
            source: "https://host/b?X-Amz-Signature=secret\n refused".into(),
        };
        let message = user_message(&error);
        assert!(message.starts_with("access is denied: check"), "{message}");
        assert!(!message.contains("secret") && !message.contains('\n'), "{message}");
    }

    #[test]
    fn missing_buckets_are_one_sentence_without_xml() {
        let body = "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>x</Message></Error>";
        let cause = format!("Server returned non-2xx status code: 404 Not Found: {body}");
        let message = user_message(&generic(&request("GET", "", &cause)));
        assert_eq!(message, "there is no such bucket or container: check its name, region and endpoint");
    }

    #[test]
    fn missing_objects_are_told_without_url_and_timing() {
        let cause = "Server returned non-2xx status code: 404 Not Found: ";
        let error = Error::NotFound { path: "a.tar".into(), source: request("HEAD", "", cause).into() };
        assert_eq!(user_message(&error), "not found: there is no such object, or no such bucket");
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Error::NotFound { path: "a.tar".into(), source: source.into() };
        assert_eq!(user_message(&error), "entity not found");
        let error = Error::NotFound { path: "a.tar".into(), source: "no such entry on the hub (404)".into() };
        assert_eq!(user_message(&error), "no such entry on the hub (404)");
    }

    #[test]
    fn failed_requests_keep_method_retries_status_and_code() {
        let retries = " after 8 retries, max_retries: 8, retry_timeout: 180s ";
        let body = "<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>";
        let cause = format!("Server returned non-2xx status code: 503 Slow Down: {body}");
        let message = user_message(&generic(&request("PUT", retries, &cause)));
        assert_eq!(
            message,
            "the request failed after several attempts (PUT, 8 retries: status 503 Slow Down: SlowDown: Please reduce \
             your rate.)"
        );
        let message = user_message(&generic(&request("GET", "", "HTTP error: error sending request")));
        assert_eq!(message, "GET: HTTP error: error sending request");
    }

    #[test]
    fn long_details_are_cut() {
        let message = user_message(&generic(&"long ".repeat(1000)));
        assert!(message.ends_with("...") && message.chars().count() < 400, "{message}");
    }
}
