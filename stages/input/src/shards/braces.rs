//! Brace expansion: `{00000..00099}` and `{a,b}` in a pattern.

/// Most names that one pattern may expand to.
pub const MAX_EXPANSION: usize = 10_000_000;

/// Expands `{00000..00099}`, `{0..90..10}`, `{a..e}` and `{a,b}`, also several and nested, as bash and webdataset do.
///
/// Braces around neither a range nor a list are text; `\{`, `\}` and `\,` stand for these characters.
///
/// # Errors
/// Unbalanced braces, more than [`MAX_EXPANSION`] names.
///
/// # Examples
/// ```
/// use recaption_input::shards::expand_braces;
///
/// let names = expand_braces("s3://data/{08..10}.tar")?;
/// assert_eq!(names, ["s3://data/08.tar", "s3://data/09.tar", "s3://data/10.tar"]);
/// # Ok::<(), String>(())
/// ```
pub fn expand_braces(pattern: &str) -> Result<Vec<String>, String> {
    if !pattern.contains(['{', '}']) {
        return Ok(vec![pattern.to_owned()]);
    }
    Ok(expand(pattern)?.into_iter().map(|name| unescape(&name)).collect())
}

/// Expands a pattern and keeps its escapes.
fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let mut marks = marks(pattern);
    let open = match marks.next() {
        None => return Ok(vec![pattern.to_owned()]),
        Some((at, '{')) => at,
        // Commas outside braces are text.
        Some((at, ',')) => {
            let (head, tail) = pattern.split_at(at + 1);
            return Ok(expand(tail)?.into_iter().map(|tail| format!("{head}{tail}")).collect());
        }
        Some(_) => return Err("`}` without `{`".into()),
    };
    let (mut depth, mut commas, mut close) = (1, Vec::new(), None);
    for (at, mark) in marks {
        match mark {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if depth == 1 => commas.push(at),
            _ => {}
        }
        if depth == 0 {
            close = Some(at);
            break;
        }
    }
    let close = close.ok_or("`{` without `}`")?;
    let group = &pattern[open + 1..close];
    let choices = if commas.is_empty() {
        match range(group)? {
            Some(range) => range,
            // Neither a range nor a list: the braces are text, and there may be others between them.
            None => expand(group)?.into_iter().map(|inner| format!("{{{inner}}}")).collect(),
        }
    } else {
        let ends = commas.iter().copied().chain([close]);
        let begins = [open].into_iter().chain(commas.iter().copied());
        let mut all = Vec::new();
        for (begin, end) in begins.zip(ends) {
            all.extend(expand(&pattern[begin + 1..end])?);
        }
        all
    };
    let tails = expand(&pattern[close + 1..])?;
    if choices.len().saturating_mul(tails.len()) > MAX_EXPANSION {
        return Err(format!("names more than {MAX_EXPANSION} shards"));
    }
    let head = &pattern[..open];
    let names =
        choices.iter().flat_map(|choice| tails.iter().map(move |tail| format!("{head}{choice}{tail}")));
    Ok(names.collect())
}

/// Returns the braces and commas that are not escaped.
fn marks(pattern: &str) -> impl Iterator<Item = (usize, char)> {
    let mut escaped = false;
    pattern.char_indices().filter(move |(_, c)| {
        let mark = !escaped && matches!(c, '{' | '}' | ',');
        escaped = !escaped && *c == '\\';
        mark
    })
}

fn unescape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(next @ ('{' | '}' | ',')) if c == '\\' => {
                out.push(*next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

/// Expands `FIRST..LAST` or `FIRST..LAST..STEP` of numbers or letters; `None` if it is neither.
fn range(group: &str) -> Result<Option<Vec<String>>, String> {
    let parts: Vec<&str> = group.split("..").collect();
    let (first, last, step) = match parts[..] {
        [first, last] => (first, last, 1),
        [first, last, step] => match step.parse::<i64>() {
            // A step of zero is one.
            Ok(step) => (first, last, step.unsigned_abs().max(1)),
            Err(_) => return Ok(None),
        },
        _ => return Ok(None),
    };
    if let (Some(from), Some(to)) = (letter(first), letter(last)) {
        return Ok(Some(
            steps(from.into(), to.into(), step)?.map(|c| char::from(c as u8).to_string()).collect(),
        ));
    }
    let (Some(from), Some(to)) = (number(first), number(last)) else { return Ok(None) };
    // Leading zeros of one number give the width of all; a single 0 has none.
    let padded = |text: &str| {
        text.trim_start_matches(['-', '+']).len() > 1 && text.trim_start_matches('-').starts_with('0')
    };
    let width = if padded(first) || padded(last) { first.len().max(last.len()) } else { 0 };
    Ok(Some(steps(from, to, step)?.map(|n| format!("{n:0width$}")).collect()))
}

fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn letter(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [c] if c.is_ascii_alphabetic() => Some(*c),
        _ => None,
    }
}

/// Counts from one number to another, up or down.
fn steps(from: i64, to: i64, step: u64) -> Result<impl Iterator<Item = i64>, String> {
    let count = from.abs_diff(to) / step + 1;
    if count > MAX_EXPANSION as u64 {
        return Err(format!("names more than {MAX_EXPANSION} shards"));
    }
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    let step = if from <= to { step } else { -step };
    Ok((0..count as i64).map(move |n| from + n * step))
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

    /// The results of bash 5.2 and of braceexpand 0.1.7, which webdataset uses.
    #[test]
    fn expansion_is_that_of_bash() {
        for (pattern, wanted) in [
            ("{0..11}", "0 1 2 3 4 5 6 7 8 9 10 11"),
            ("{00..3}", "00 01 02 03"),
            ("{8..010}", "008 009 010"),
            ("{01..100..33}", "001 034 067 100"),
            ("{3..1}", "3 2 1"),
            ("{03..1}", "03 02 01"),
            ("{0..10..5}", "0 5 10"),
            ("{10..0..-5}", "10 5 0"),
            ("{-1..1}", "-1 0 1"),
            ("{-01..1}", "-01 000 001"),
            ("{a..d}", "a b c d"),
            ("{d..a..2}", "d b"),
            ("{a}", "{a}"),
            ("x{}y", "x{}y"),
            ("{1..x}", "{1..x}"),
            ("{1.5..3}", "{1.5..3}"),
            ("{a{1..2}}", "{a1} {a2}"),
            ("{{a,b},c}", "a b c"),
            ("a{,b}", "a ab"),
            ("\\{a,b\\}{1..2}", "{a,b}1 {a,b}2"),
            ("{a\\,b,c}", "a,b c"),
            ("a,b{1,2}", "a,b1 a,b2"),
            ("{5..5}", "5"),
        ] {
            assert_eq!(expand(pattern).join(" "), wanted, "{pattern}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors() {
        for (pattern, word) in [("{0..9", "without"), ("0..9}", "without"), ("{0..99999999999}", "more than")]
        {
            let error = expand_braces(pattern).expect_err(pattern);
            assert!(error.contains(word), "{pattern}: {error}");
        }
    }
}
