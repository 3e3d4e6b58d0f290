//! Fractions, and which rows a selection keeps.

use super::*;

fn fraction(text: &str) -> Fraction {
    text.parse().expect(text)
}

#[test]
fn shares_are_exact_and_rounded_up() {
    for (share, n, wanted) in [
        ("0.3", 10, 3),
        ("0.07", 100, 7),
        ("0.29", 100, 29),
        ("0.3", 11, 4),
        ("0.300", 1, 1),
        ("1", 7, 7),
        ("1.0", 7, 7),
        ("0.5", 0, 0),
        ("0.000000000000000001", u64::MAX, 19),
        ("1", u64::MAX, u64::MAX),
    ] {
        assert_eq!(fraction(share).of(n), wanted, "{share} of {n}");
    }
}

#[test]
fn fractions_are_decimals_above_0_and_up_to_1() {
    for text in [
        "0",
        "0.0",
        "1.01",
        "30",
        "-0.3",
        "+0.3",
        ".5",
        "30%",
        "3e-1",
        "NaN",
        "",
        "0.0000000000000000001",
        "0,3",
    ] {
        assert!(text.parse::<Fraction>().is_err(), "{text}");
    }
    for (text, shown) in
        [("0.30", "0.3"), ("1.000", "1"), ("0.05", "0.05"), ("1", "1"), ("00.5", "0.5"), ("0.", "")]
    {
        match text.parse::<Fraction>() {
            Ok(fraction) => assert_eq!(fraction.to_string(), shown, "{text}"),
            Err(_) => assert_eq!(shown, "", "{text}"),
        }
    }
}

#[test]
fn rows_at_the_threshold_stay_and_unscored_rows_go() {
    let selection = |threshold| Selection {
        by: ScoreColumn::OrgSimilarity,
        cutoff: Cutoff::KeepTop(fraction("0.3")),
        threshold,
        column: Some("selected".into()),
    };
    let some = selection(Some(0.25));
    assert!(some.keeps(Some(0.25)) && !some.keeps(Some(0.249_999_99)) && !some.keeps(None));
    assert!(!selection(None).keeps(Some(1.0)));
    assert_eq!(some.describe(), "org_similarity >= 0.25 (top 0.3), marked in selected");
    assert_eq!(
        some.reject_detail(Some(0.1)),
        "org_similarity 0.1000 is below 0.2500, the threshold of --keep-top 0.3"
    );
    assert_eq!(some.reject_detail(None), "no org_similarity: the input had no caption");
    let least = Selection {
        cutoff: Cutoff::AtLeast(0.1),
        threshold: Some(0.1),
        by: ScoreColumn::Similarity,
        column: None,
    };
    assert_eq!(least.describe(), "similarity >= 0.1");
    let written = serde_json::to_string(&least.record()).expect("plain data");
    assert_eq!(
        written,
        r#"{"by":"similarity","keep_top":null,"min_similarity":"0.1","threshold":0.10000000149011612,"column":null}"#
    );
    let matched = Selection { by: ScoreColumn::Itm, ..least };
    assert_eq!(matched.reject_detail(Some(0.05)), "itm 0.0500 is below --min-itm 0.1");
    assert_eq!(matched.reject_detail(None), "no itm: the caption was not matched");
    let original = Selection { by: ScoreColumn::OrgItm, ..matched.clone() };
    assert_eq!(original.reject_detail(Some(0.05)), "org_itm 0.0500 is below --min-itm 0.1");
    assert_eq!(original.reject_detail(None), "no org_itm: the input had no caption");
    assert_eq!(original.by.reason(), RejectReason::BelowItm);
    let record = matched.record();
    assert_eq!((record.by, record.min_similarity, record.min_itm.as_deref()), ("itm", None, Some("0.1")));
}
