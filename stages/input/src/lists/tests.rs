//! Lists in every format, whole, in chunks and in parts.

use super::{delimited::MAX_RECORD_BYTES, *};

fn parse(kind: ListKind, text: &str, chunk: usize) -> Result<Vec<ListRow>, String> {
    let mut parser = ListParser::new(kind, Columns::default());
    let mut rows = Vec::new();
    for piece in text.as_bytes().chunks(chunk) {
        rows.extend(parser.push(piece)?);
    }
    rows.extend(parser.finish()?);
    Ok(rows)
}

fn row(index: u64, key: &str, url: &str, caption: Option<&str>, meta: Option<&str>) -> ListRow {
    let number = format!("{index:09}");
    let key = if key == number { RowKey::Derived(number) } else { RowKey::Declared(key.into()) };
    let captions = caption.into_iter().map(str::to_owned).collect();
    ListRow { index, key, url: Ok(url.into()), captions, meta: meta.map(str::to_owned) }
}

#[test]
fn all_formats_give_the_same_rows_in_any_chunks() {
    let csv = "\u{feff}url,caption,key,w\nhttp://a/1.jpg,\"a cat,\nasleep \"\"here\"\"\",k1,10\r\nhttp://a/2.jpg,,,20";
    let json = "{\"url\":\"http://a/1.jpg\",\"caption\":\"a cat,\\nasleep \\\"here\\\"\",\"key\":\"k1\",\"w\":\"10\"}\n\n{\"url\":\"http://a/2.jpg\",\"w\":\"20\"}";
    let expected = vec![
        row(0, "k1", "http://a/1.jpg", Some("a cat,\nasleep \"here\""), Some("{\"w\":\"10\"}")),
        row(1, "000000001", "http://a/2.jpg", None, Some("{\"w\":\"20\"}")),
    ];
    for chunk in 1..40 {
        assert_eq!(parse(ListKind::Csv, csv, chunk).as_ref(), Ok(&expected), "csv, chunks of {chunk}");
        assert_eq!(
            parse(ListKind::JsonLines, json, chunk).as_ref(),
            Ok(&expected),
            "json, chunks of {chunk}"
        );
    }
    let tsv = "url\tTEXT\nhttp://a/1.jpg\ta, cat\n";
    assert_eq!(
        parse(ListKind::Tsv, tsv, 3),
        Ok(vec![row(0, "000000000", "http://a/1.jpg", Some("a, cat"), None)])
    );
    let text = "http://a/1.jpg\n\n http://a/2.jpg ";
    let rows = vec![
        row(0, "000000000", "http://a/1.jpg", None, None),
        row(1, "000000001", "http://a/2.jpg", None, None),
    ];
    assert_eq!(parse(ListKind::Text, text, 4), Ok(rows));
}

#[test]
fn parts_may_begin_at_any_row() {
    let csv = "\u{feff}url,caption,key\r\nhttp://a/1.jpg,\"a cat,\r\nasleep\",k1\r\n\r\nhttp://a/2.jpg,,\r\na,b,c,d\r\nhttp://a/3.jpg,x,\r\nhttp://a/4.jpg,,k4";
    let tsv = "url\tcaption\na\tb\nc\td\ne\tf\n";
    let json = "{\"url\":\"a\"}\n\n[]\n{\"url\":\"b\",\"key\":\"k\"}\r\n{\"url\":\"c\"}";
    let text = "http://a/1.jpg\n\n http://a/2.jpg \r\nhttp://a/3.jpg\n\n";
    let lists =
        [(ListKind::Csv, csv), (ListKind::Tsv, tsv), (ListKind::JsonLines, json), (ListKind::Text, text)];
    for (kind, list) in lists {
        let expected = parse(kind, list, 1000).expect("a list");
        for chunk in 1..20 {
            let mut whole = ListParser::new(kind, Columns::default());
            let mut ends = Vec::new();
            let mut sink = |row: ListRow, end: u64| ends.push((row, end as usize));
            for piece in list.as_bytes().chunks(chunk) {
                whole.push_into(piece, &mut sink).expect("a list");
            }
            whole.finish_into(&mut sink).expect("a list");
            let header = whole.header_bytes() as usize;
            assert!(ends.iter().map(|(row, _)| row).eq(&expected), "{kind:?}, chunks of {chunk}");
            for (at, (_, end)) in ends.iter().enumerate() {
                let mut part = ListParser::new(kind, Columns::default()).with_row_offset(at as u64 + 1);
                let mut rows = part.push(&list.as_bytes()[..header]).expect("names");
                rows.extend(part.push(&list.as_bytes()[*end..]).expect("rows"));
                rows.extend(part.finish().expect("rows"));
                let later = expected[at + 1..].iter().cloned();
                let later: Vec<_> =
                    later.map(|row| ListRow { index: row.index - at as u64 - 1, ..row }).collect();
                assert_eq!(rows, later, "{kind:?}, chunks of {chunk}, from row {}", at + 1);
            }
        }
    }
}

#[test]
fn malformed_rows_count_and_bad_lists_name_their_columns() {
    let rows = parse(ListKind::Csv, "url,caption\nhttp://a,b,c\nhttp://a,b\n", 5).expect("a list");
    assert!(rows[0].url.as_ref().is_err_and(|why| why.contains("3 values")), "{rows:?}");
    assert_eq!((rows.len(), rows[1].index), (2, 1));
    let rows = parse(ListKind::JsonLines, "[1]\n{\n{\"link\":\"x\"}\n", 100).expect("a list");
    for (row, word) in rows.iter().zip(["no JSON object", "no JSON", "there are: link"]) {
        assert!(row.url.as_ref().is_err_and(|why| why.contains(word)), "{row:?}");
    }
    assert_eq!(rows.len(), 3);
    let error = parse(ListKind::Csv, "link,caption\nx,y\n", 100).expect_err("no addresses");
    assert!(error.contains("there are: link, caption") && error.contains("columns.url"), "{error}");
    assert!(parse(ListKind::Csv, "", 100).expect_err("empty").contains("empty"));
    let mut long = "x".repeat(MAX_RECORD_BYTES + 100);
    long.push_str("\nhttp://a\n");
    let rows = parse(ListKind::Text, &long, 1 << 16).expect("a list");
    assert!(rows[0].url.is_err() && rows[1].url.as_deref() == Ok("http://a"), "{}", rows.len());
    let rows = parse(ListKind::Csv, &format!("url,caption\n{}", &long[..MAX_RECORD_BYTES + 50]), 1 << 16)
        .expect("a list");
    assert!(rows[0].url.as_ref().is_err_and(|why| why.contains("more than")), "{}", rows.len());
}
