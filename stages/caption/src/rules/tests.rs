//! Every rule on texts that meet it and texts that violate it, and properties of all texts.

use std::time::Instant;

use recaption_schemas::{Candidate, Candidates, Similarity};

use super::{words::words, *};

fn rules(change: impl FnOnce(&mut RuleSettings)) -> TextRules {
    let mut settings = RuleSettings::default();
    change(&mut settings);
    TextRules::new(settings).expect("valid settings")
}

fn verdict(rules: &TextRules, text: &str) -> String {
    rules.check(text).map_or("kept".into(), |violation| violation.to_string())
}

fn candidates(texts: &[&str]) -> Candidates {
    let one = |(i, text): (usize, &&str)| Candidate {
        text: (*text).to_owned(),
        similarity: Similarity::new(1.0 - i as f32 / 100.0).expect("finite"),
        logprob: -1.0,
        itm: None,
    };
    Candidates::new(texts.iter().enumerate().map(one).collect()).expect("some")
}

/// Random texts of letters, digits, marks, spaces and other scripts (SplitMix64).
fn random_texts(count: u64) -> impl Iterator<Item = String> {
    const PIECES: [&str; 24] = [
        "a",
        "cat",
        "Dog",
        " ",
        " ",
        "  ",
        ".",
        ",",
        "_",
        "-",
        "/",
        ":",
        "@",
        "1",
        "42",
        "jpg",
        "com",
        "www",
        "é",
        "犬",
        "カメラ",
        "🐱",
        "e\u{301}",
        "\u{200d}",
    ];
    (0..count).map(|n| {
        let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        (0..next() % 40).map(|_| PIECES[next() % PIECES.len()]).collect()
    })
}

#[test]
fn default_rules_keep_everything() {
    let off = TextRules::default();
    for text in ["", "IMG_1234.jpg", "the the the the the", "🐱"]
        .map(str::to_owned)
        .into_iter()
        .chain(random_texts(500))
    {
        assert_eq!(off.check(&text), None, "{text:?}");
    }
    assert!(off.row_keys().is_empty());
    assert_eq!(off.choose(&candidates(&["", ""])), Ok(0));
}

#[test]
fn words_follow_unicode_boundaries() {
    let count = |text: &str| words(text).len();
    for (text, wanted) in [
        ("", 0),
        (" \t\n", 0),
        ("... !?", 0),
        ("🐱 🐶", 0),
        ("a cat, a dog.", 4),
        ("don't can’t", 2),
        ("3.5 inch 1,000", 3),
        ("black-and-white", 3),
        ("a cat — asleep", 3),
        ("два красных шара", 3),
        ("黒い猫が寝ている", 8),
        ("赤い カメラ", 3),
        ("고양이 두 마리", 3),
        ("แมว", 3),
        ("e\u{301}te\u{301} A\u{30a}", 2),
    ] {
        assert_eq!(count(text), wanted, "{text:?}: {:?}", words(text));
    }
    assert_eq!(words("Can’t STOP İstanbul ΣΑΣ"), ["can't", "stop", "i\u{307}stanbul", "σας"]);
}

#[test]
fn length_bounds_are_inclusive() {
    let r = rules(|s| (s.min_words, s.max_words) = (Some(2), Some(3)));
    assert_eq!(verdict(&r, "cat"), "rules.min_words = 2 (the caption has 1 word)");
    assert_eq!(verdict(&r, ""), "rules.min_words = 2 (the caption has 0 words)");
    assert_eq!(verdict(&r, "a cat"), "kept");
    assert_eq!(verdict(&r, "a red cat !!! 🐱"), "kept");
    assert_eq!(verdict(&r, "a red cat sits"), "rules.max_words = 3 (the caption has 4 words)");
    let r = rules(|s| (s.min_chars, s.max_chars) = (Some(1), Some(4)));
    assert_eq!(verdict(&r, ""), "rules.min_chars = 1 (the caption has 0 characters)");
    assert_eq!(verdict(&r, "éé犬🐱"), "kept", "characters are not bytes");
    assert_eq!(verdict(&r, "abcde"), "rules.max_chars = 4 (the caption has 5 characters)");
}

#[test]
fn repeats_count_overlapping_ngrams() {
    let r = |most, n| rules(|s| (s.max_repeats, s.ngram) = (Some(most), n));
    let loops = "a red ball and a red ball and a red ball";
    assert_eq!(verdict(&r(2, None), loops), "rules.max_repeats = 2 (\"a red ball\" occurs 3 times)");
    assert_eq!(verdict(&r(3, None), loops), "kept");
    assert_eq!(verdict(&r(2, Some(1)), "the The THE dog"), "rules.max_repeats = 2 (\"the\" occurs 3 times)");
    assert_eq!(verdict(&r(1, Some(2)), "ha ha ha"), "rules.max_repeats = 1 (\"ha ha\" occurs 2 times)");
    assert_eq!(verdict(&r(1, Some(2)), "a cat. A  cat!"), "rules.max_repeats = 1 (\"a cat\" occurs 2 times)");
    assert_eq!(verdict(&r(1, None), "a a"), "kept", "shorter than an n-gram");
    assert_eq!(verdict(&r(1, None), ""), "kept");
    assert_eq!(verdict(&r(2, Some(2)), "犬犬犬犬"), "rules.max_repeats = 2 (\"犬 犬\" occurs 3 times)");
    // Of several that occur as often, the first is reported: a detail must not depend on chance.
    assert_eq!(verdict(&r(1, Some(1)), "b a b a"), "rules.max_repeats = 1 (\"b\" occurs 2 times)");
}

#[test]
fn banned_words_match_whole_words_in_any_case() {
    let r = rules(|s| {
        s.banned_words = ["Watermark", "stock  photo", "don't", "Ärger", "犬"].map(str::to_owned).into()
    });
    for (text, phrase) in [
        ("a WATERMARK.", "watermark"),
        ("(watermark)", "watermark"),
        ("a Stock-Photo of a cat", "stock photo"),
        ("I don’t know", "don't"),
        ("ÄRGER!", "ärger"),
        ("黒犬", "犬"),
        ("stock stock photo", "stock photo"),
    ] {
        let wanted = format!("rules.banned_words = \"{phrase}\" (the caption holds \"{phrase}\")");
        assert_eq!(verdict(&r, text), wanted);
    }
    for text in ["watermarked paper", "a photo of stock", "stock a photo", "arger", "don t", ""] {
        assert_eq!(verdict(&r, text), "kept", "{text}");
    }
}

#[test]
fn junk_is_found_in_both_spellings() {
    let r = rules(|s| s.junk = true);
    for text in [
        "",
        "...",
        "2019",
        "🐱🐱",
        "20190304_123456",
        "IMG_1234.jpg",
        "IMG_1234",
        "img1234",
        "DSC00012",
        "dscn0042",
        "_MG_5521",
        "P1010023",
        "DJI_0001",
        "a cat DSC_0042",
        "sunset-at-beach.JPG",
        "photo(1).jpeg",
        "beach.webp",
        "clip.mp4",
        "img _ 1 2 3 4. jpg",
        "dsc 0 0 0 1 2",
        "a dog by the sea. jpeg",
        "http://example.com/a",
        "see HTTPS://x",
        "http : / / www. example",
        "www.example.de",
        "www. flickr. photos",
        "example.com",
        "visit example. com today",
        "photo by shop.co.uk",
        "me@example.org",
        "me @ example. com",
        "Canon EOS 5D",
        "canon eos 5 d mark iii",
        "NIKON D70",
        "NIKON CORPORATION",
        "SONY DSC",
        "SONY DSC-W830",
        "OLYMPUS DIGITAL CAMERA",
        "olympus digital camera.",
        "Exif_JPEG_PICTURE",
        "KODAK EASYSHARE C140",
        "Canon DIGITAL IXUS 70",
        "COOLPIX P900",
        "550e8400-e29b-41d4-a716-446655440000",
        "d41d8cd98f00b204e9800998ecf8427e",
        "5 5 0 e 8 4 0 0 - e 2 9 b - 4 1 d 4 - a 7 1 6",
        "x7f3k9q2m4b8",
        "aGVsbG8gd29ybGQ1IHRoaXMgaXM",
    ] {
        assert_ne!(verdict(&r, text), "kept", "{text:?}");
    }
    assert_eq!(
        verdict(&r, "a cat img_1234.jpg"),
        "rules.junk = true (the caption holds a file name: \"img_1234\")"
    );
}

#[test]
fn language_is_kept() {
    let r = rules(|s| s.junk = true);
    for text in [
        "a nikon camera on a table",
        "a man taking a picture with a canon camera",
        "a canon eos 5d camera on a wooden table",
        "an olympus digital camera with its box",
        "a cannon in front of a castle",
        "sony playstation controller",
        "a kodak moment",
        "a samsung tv on the wall",
        "boeing 747-400 at gate b32",
        "a 1957 chevrolet bel air",
        "a man in a number 7 jersey",
        "size 10x20x30cm",
        "10 x 20 x 30 cm",
        "the years 1920 1930 1940 1950 a cafe",
        "St. Louis arch at 7:30 p.m.",
        "Mr. and Mrs. Smith in Washington, D.C.",
        "e.g. a dog, i.e. an animal",
        "U.S. army soldiers",
        "the end. it was a dog. de niro smiles. net of fish. me too",
        "a black-and-white photo of R2-D2 and C-3PO",
        "an a/c unit, a t-shirt & a 3.5-inch disk",
        "a png of a jpg",
        "a photo of 3 dogs",
        "photo 12 of 100",
        "a picture of 100 people",
        "image 3",
        "a file on a desk",
        "mother@home and son",
        "look @ the beach. he is there",
        "a 4k 60fps video on a 65\" screen",
        "chess: e4 e5 nf3 nc6 bb5 a6",
        "a1 a2 a3 a4 a5 a6 a7 a8",
        "phone 555-0123",
        "iPhone 12 pro on a desk",
        "LOVE is ALL you NEED",
        "McDonald's at night",
        "supercalifragilisticexpialidocious",
        "Donaudampfschifffahrtsgesellschaft",
        "a dead bee faced a cafe decade",
        "собака на пляже",
        "黒い猫",
        "แมวสีดำ",
        "x",
    ] {
        assert_eq!(verdict(&r, text), "kept", "{text:?}");
    }
}

#[test]
fn only_the_best_duplicate_may_be_chosen() {
    let r = rules(|s| (s.duplicates, s.max_chars) = (true, Some(6)));
    let chosen = |texts: &[&str]| r.choose(&candidates(texts));
    assert_eq!(chosen(&["a cat"]), Ok(0), "a single candidate is no duplicate");
    assert_eq!(chosen(&["a cat", "A cat!"]), Ok(0));
    // The best of two equal ones is too long: the other is not chosen in its place, another one is.
    assert_eq!(chosen(&["a cat...", "A cat", "a dog"]), Ok(2));
    // Spaces between words tell texts apart, more of them do not.
    assert_eq!(chosen(&["a cat...", "a  cat", "acat"]), Ok(2));
    let violations = chosen(&["a cat...", "A cat"]).expect_err("none is left");
    assert_eq!(
        describe_violations(&violations),
        "all 2 candidates break a rule: rules.max_chars 1, rules.duplicates 1; the best: rules.max_chars = 6 (the caption has 8 characters)"
    );
    assert_eq!(violations[1].to_string(), "rules.duplicates = true (the same text as candidate 1)");
    // Without letters nothing can be folded: these two are not equal.
    assert_eq!(
        rules(|s| (s.duplicates, s.max_chars) = (true, Some(2))).choose(&candidates(&["!!!", "?"])),
        Ok(1)
    );
}

#[test]
fn contradicting_settings_are_errors() {
    let error = |change: fn(&mut RuleSettings)| {
        let mut settings = RuleSettings::default();
        change(&mut settings);
        TextRules::new(settings).expect_err("nonsense")
    };
    assert_eq!(error(|s| (s.min_chars, s.max_chars) = (Some(3), Some(2))).key, "rules.min_chars");
    assert_eq!(error(|s| s.max_repeats = Some(0)).key, "rules.max_repeats");
    assert_eq!(error(|s| s.ngram = Some(2)).key, "rules.ngram");
    assert_eq!(error(|s| s.banned_words = vec![" ".into()]).key, "rules.banned_words");
}

#[test]
fn long_ban_lists_are_recorded_by_digest() {
    let list = |n: usize| rules(|s| s.banned_words = (0..n).map(|i| format!("word{i}")).collect()).row_keys();
    assert_eq!(list(2), [("rules.banned_words", r#"["word0", "word1"]"#.to_owned())]);
    let long = &list(1000)[0].1;
    assert!(long.starts_with("1000 entries, sha256 ") && long.len() < 60, "{long}");
    assert_ne!(list(1000), list(1001));
    let turned = rules(|s| s.banned_words = vec!["B".into(), "a".into(), "b".into()]);
    assert_eq!(turned.row_keys(), rules(|s| s.banned_words = vec!["a".into(), "b".into()]).row_keys());
}

/// Properties of any text: counts are exact, and case and spaces at the ends do not change words.
#[test]
fn rules_agree_with_independent_counts() {
    for text in random_texts(3_000) {
        let n = words(&text).len();
        let bounded = rules(|s| (s.min_words, s.max_words) = (Some(n), Some(n)));
        assert_eq!(verdict(&bounded, &text), "kept", "{text:?}");
        assert_eq!(
            rules(|s| s.min_words = Some(n + 1)).check(&text).map(|b| b.rule),
            Some("rules.min_words")
        );
        let repeated = rules(|s| (s.max_repeats, s.ngram) = (Some(1), Some(1)));
        let mut sorted = words(&text);
        sorted.sort();
        sorted.dedup();
        assert_eq!(repeated.check(&text).is_some(), sorted.len() < n, "{text:?}");
        let junk = rules(|s| s.junk = true);
        let spaced = format!(" {text} ");
        assert_eq!(junk.check(&text).is_some(), junk.check(&spaced).is_some(), "{text:?}");
        for word in words(&text) {
            let banned = rules(|s| s.banned_words = vec![word.to_uppercase()]);
            assert!(
                word.to_uppercase().to_lowercase() != word || banned.check(&text).is_some(),
                "{text:?}: {word:?}"
            );
        }
    }
}

/// No text makes a rule slow: a quadratic rule would take minutes on these.
#[test]
fn time_is_linear_and_details_are_short() {
    let all = rules(|s| {
        (s.max_repeats, s.ngram, s.junk, s.duplicates) = (Some(usize::MAX), Some(64), true, true);
        s.banned_words = (1..40).map(|n| vec!["a"; n].join(" ") + " z").collect();
    });
    for piece in ["a ", "a1", "a.", "1 ", "deadbeef1", "@a.", "Ab1", "-", "犬", "http:/", "img_", "a"] {
        let text = piece.repeat(100_000);
        let began = Instant::now();
        let chosen = all.choose(&candidates(&[&text]));
        assert!(began.elapsed().as_secs() < 10, "{piece:?} took {:?}", began.elapsed());
        assert!(
            chosen.is_ok() || describe_violations(&chosen.expect_err("violations")).len() < 400,
            "{piece:?}"
        );
    }
}
