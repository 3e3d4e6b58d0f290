//! Valid, repaired and invalid documents.

use super::*;

fn read(text: &str) -> Document {
    Document::read(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn valid_json_is_kept_verbatim() {
    for text in
        ["{\"a\": [1, 2.50],\n \"b\": {\"c\": null}}", "[]", " 1e5 ", "\"\\ud83d\\ude00 \\u00e9\"", "{}"]
    {
        assert_eq!(read(text).into_text(), text);
        assert!(serde_json::from_str::<Value>(text).is_ok());
    }
}

#[test]
fn python_extensions_become_valid_json() {
    for (text, expected) in [
        ("{\"a\": NaN, \"b\": [-Infinity, Infinity, 1e400]}", "{\"a\":null,\"b\":[null,null,null]}"),
        ("\u{feff}{\"a\": 1}", "{\"a\": 1}"),
        ("\"x \\ud83d\"", "\"x \\ufffd\""),
        ("\"\\ude00\\ud83d\\u0041\"", "\"\\ufffd\\ufffd\\u0041\""),
        ("\"a\nb\"", "\"a\\u000ab\""),
    ] {
        let text = read(text).into_text();
        assert_eq!(text, expected);
        serde_json::from_str::<Value>(&text).expect("valid");
    }
    let digits = "1".repeat(400);
    assert_eq!(read(&digits).into_text(), digits);
    let utf16: Vec<u8> = "\u{feff}{\"a\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(Document::read(&utf16).expect("UTF-16").into_text(), "{\"a\":1}");
}

#[test]
fn fields_are_those_of_the_outer_object() {
    let deep = format!("{{\"a\":{}{},\"caption\":\"x\"}}", "[".repeat(900), "]".repeat(900));
    let document = read(&deep);
    assert_eq!(document.names().collect::<Vec<_>>(), ["a", "caption"]);
    assert_eq!(document.value(1), "\"x\"");
    assert_eq!(document.clone().into_text(), deep);
    let deeper = "[".repeat(100_000);
    assert!(Document::read(deeper.as_bytes()).expect_err("too deep").contains("deeper"));
    let document = read("{\"a\": {\"b\": 1}, \"\\u0062\": [ 2 ], \"a\": 3}");
    assert_eq!(document.without(&[]).as_deref(), Some("{\"b\":[2],\"a\":3}"));
    assert_eq!(document.without(&[1]).as_deref(), Some("{\"a\":3}"));
    assert_eq!(document.without(&[0, 1, 2]), None);
    assert_eq!(document.clone().with("c", "[1]"), "{\"c\":[1],\"a\":{\"b\":1},\"\\u0062\":[2],\"a\":3}");
    assert_eq!(read("{ }").with("c", "1"), "{\"c\":1}");
    assert_eq!(read("{\"c\": 2}").with("c", "1"), "{\"c\": 2}");
    assert!(document.is_object() && !read("[{\"a\":1}]").is_object());
}

#[test]
fn invalid_json_is_an_error() {
    for text in [
        "",
        " ",
        "{",
        "{\"a\"}",
        "{\"a\":1,}",
        "[1 2]",
        "{a:1}",
        "01",
        "1.",
        "-",
        "nan",
        "\"a",
        "\"\\x\"",
        "1 2",
        "]",
    ] {
        Document::read(text.as_bytes()).map(|d| panic!("{text:?}: {d:?}")).expect_err("no JSON");
    }
}
