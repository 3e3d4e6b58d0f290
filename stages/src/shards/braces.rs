//! `{00000..00099}` and `{a,b}` in a pattern.

/// Most shards one brace pattern may name.
pub const MAX_EXPANSION: usize = 10_000_000;

/// Expands `{00000..00099}` and `{a,b}`, as shells and webdataset do; several and nested ones too.
///
/// # Errors
/// Unbalanced braces, a malformed range, more than [`MAX_EXPANSION`] names.
pub fn expand_braces(pattern: &str) -> Result<Vec<String>, String> {
    let Some(open) = pattern.find('{') else {
        return match pattern.find('}') {
            Some(_) => Err("`}` without `{`".into()),
            None => Ok(vec![pattern.to_owned()]),
        };
    };
    let mut depth = 0;
    let close = pattern[open..]
        .char_indices()
        .find(|(_, c)| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        })
        .map(|(at, _)| open + at)
        .ok_or("`{` without `}`")?;
    let choices = expand_group(&pattern[open + 1..close])?;
    let tails = expand_braces(&pattern[close + 1..])?;
    if choices.len().saturating_mul(tails.len()) > MAX_EXPANSION {
        return Err(format!("names more than {MAX_EXPANSION} shards"));
    }
    let mut out = Vec::with_capacity(choices.len() * tails.len());
    for choice in &choices {
        for tail in &tails {
            out.push(format!("{}{choice}{tail}", &pattern[..open]));
        }
    }
    Ok(out)
}

/// What stands between braces: a range of numbers, or alternatives.
fn expand_group(group: &str) -> Result<Vec<String>, String> {
    if let Some((from, to)) = group.split_once("..")
        && !group.contains(['{', ','])
    {
        let number =
            |text: &str| text.parse::<u64>().map_err(|_| format!("`{{{group}}}` is no range of numbers"));
        let (first, last) = (number(from)?, number(to)?);
        if first > last {
            return Err(format!("`{{{group}}}` runs backwards"));
        }
        if last - first >= MAX_EXPANSION as u64 {
            return Err(format!("names more than {MAX_EXPANSION} shards"));
        }
        let width = if from.starts_with('0') || to.starts_with('0') { from.len().max(to.len()) } else { 0 };
        return Ok((first..=last).map(|n| format!("{n:0width$}")).collect());
    }
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    let mut out = Vec::new();
    for part in parts {
        out.extend(expand_braces(&part)?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::expand_braces;

    fn expand(pattern: &str) -> Vec<String> {
        expand_braces(pattern).expect(pattern)
    }

    #[test]
    fn ranges_keep_their_width() {
        assert_eq!(
            expand("s3://b/{00008..00011}.tar"),
            ["s3://b/00008.tar", "s3://b/00009.tar", "s3://b/00010.tar", "s3://b/00011.tar"]
        );
        assert_eq!(expand("{8..10}"), ["8", "9", "10"]);
        assert_eq!(expand("{000..2}"), ["000", "001", "002"]);
    }

    #[test]
    fn alternatives_multiply_and_nest() {
        assert_eq!(expand("{a,b}/{0..1}"), ["a/0", "a/1", "b/0", "b/1"]);
        assert_eq!(expand("x{a,b{1..2}}"), ["xa", "xb1", "xb2"]);
        assert_eq!(expand("plain.tar"), ["plain.tar"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (pattern, word) in [
            ("{0..9", "without"),
            ("0..9}", "without"),
            ("{9..0}", "backwards"),
            ("{a..b}", "no range"),
            ("{0..99999999999}", "more than"),
        ] {
            let error = expand_braces(pattern).expect_err(pattern);
            assert!(error.contains(word), "{pattern}: {error}");
        }
    }
}
