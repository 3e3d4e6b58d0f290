//! `X-Robots-Tag`: directives of a response about its use by machines. Parsed as img2dataset parses it.

use reqwest::header::{HeaderMap, HeaderName};

const HEADER: HeaderName = HeaderName::from_static("x-robots-tag");

/// Returns the first of the `refused` directives that the response carries for all agents or for `agent`.
///
/// There may be several headers, each a comma-separated list that may begin with the name of its agent.
pub(super) fn opt_out(headers: &HeaderMap, agent: &str, refused: &[String]) -> Option<String> {
    let agent = agent.to_ascii_lowercase();
    for value in headers.get_all(HEADER) {
        let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        let mut for_us = true;
        for part in value.split(',') {
            let directive = match part.split_once(':') {
                // `unavailable_after: DATE` and `max-snippet: N` are no agents.
                Some((name, _)) if name.trim() == "unavailable_after" || name.trim().starts_with("max-") => {
                    continue;
                }
                // Nor is the time in a date that a comma cut off: `Friday, 25-Jun-30 15:00:00 GMT`.
                Some((name, _)) if !is_agent(name.trim()) => part,
                Some((name, rest)) => {
                    let name = name.trim();
                    for_us = name == "*" || agent.split(['/', ' ', ';']).any(|word| word == name);
                    rest
                }
                None => part,
            };
            let directive = directive.trim();
            if for_us && refused.iter().any(|refused| refused.eq_ignore_ascii_case(directive)) {
                return Some(directive.to_owned());
            }
        }
    }
    None
}

/// Returns whether the text before a colon can be the name of an agent.
fn is_agent(name: &str) -> bool {
    name == "*" || name.starts_with(|c: char| c.is_ascii_alphabetic()) && !name.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn directives_apply_to_all_agents_or_the_named_one() {
        let refused = ["noai", "noimageai", "noindex", "noimageindex"].map(str::to_owned);
        let found = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, HeaderValue::from_str(value).expect("a header"));
            }
            opt_out(&headers, "recaption/0.1 (+https://example.org)", &refused)
        };
        assert_eq!(found(&["noai"]).as_deref(), Some("noai"));
        assert_eq!(found(&["nofollow, NoImageAI"]).as_deref(), Some("noimageai"));
        assert_eq!(found(&["nofollow", "noindex"]).as_deref(), Some("noindex"));
        assert_eq!(found(&["googlebot: noindex, noai"]), None);
        assert_eq!(found(&["recaption: noai"]).as_deref(), Some("noai"));
        assert_eq!(found(&["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"]).as_deref(), Some("noai"));
        let weekday = "unavailable_after: Friday, 25-Jun-30 15:00:00 GMT, noai";
        assert_eq!(found(&[weekday]).as_deref(), Some("noai"));
        assert_eq!(found(&["all", "nofollow, noarchive"]), None);
        assert_eq!(found(&[]), None);
    }
}
