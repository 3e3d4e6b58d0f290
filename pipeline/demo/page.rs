//! The demo's page: images beside their captions. One file that needs nothing else, neither network nor scripts.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use recaption_onnx::Bundled;

use super::{
    rows::{DemoRow, ScoredCaption},
    table::{HEADINGS, TableRow, notes},
};
use crate::scenes::{Scene, descriptive, draw, short};

/// Largest number of images that are shown, so that the page opens at once.
const EXAMPLES: usize = 60;
/// Width and height of an image, in pixels.
const SIDE: u32 = 112;

/// Head and style sheet. Below 600 pixels captions stand under their labels, so that nothing is wider than the screen; the table
/// scrolls by itself.
const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>recaption demo</title>
<style>
:root { --text: #222; --quiet: #666; --page: #fff; --line: #e4e4e4; --exact: #1a7f37 }
@media (prefers-color-scheme: dark) {
:root { --text: #e6e6e6; --quiet: #a0a0a0; --page: #161616; --line: #333; --exact: #4ac26b }
}
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; background: var(--page); color: var(--text); font: 16px/1.45 system-ui, sans-serif }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line) } th { font-weight: 600 }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: nowrap }
p, .key { color: var(--quiet) } .wide { overflow-x: auto }
article { display: flex; gap: 1.1rem; padding: .9rem 0; border-top: 1px solid var(--line) }
article img { flex: none; width: 112px; height: 112px; border-radius: 4px } article > div { min-width: 0 }
dl { display: grid; grid-template-columns: 6rem 3.2rem 1fr; gap: .15rem .6rem; margin: 0 }
dt, .similarity { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere } .similarity { font-variant-numeric: tabular-nums }
.exact { color: var(--exact) } .truth { color: var(--quiet); font-style: italic }
@media (max-width: 599px) {
body { margin: 1rem auto } article { gap: .9rem } article img { width: 80px; height: 80px }
dl { grid-template-columns: auto 1fr; gap: 0 .6rem } dd:not(.similarity) { grid-column: 1 / -1; margin-bottom: .35rem }
}
</style>
<h1>recaption demo</h1>
"#;

/// Formats the page as HTML.
///
/// # Errors
/// Fails when an image cannot be encoded.
pub(super) fn page(rows: &[DemoRow], table: &[TableRow]) -> anyhow::Result<String> {
    let mut html = String::from(HEAD);
    let shown = rows.len().min(EXAMPLES);
    let _ = writeln!(
        html,
        "<p>{} drawn scenes with alt texts such as the web has, captioned by {} (short captions) and {} (descriptive captions).</p>",
        rows.len(),
        Bundled::Ssc.name(),
        Bundled::Dsc.name()
    );
    push_table(&mut html, rows, table);
    let _ = writeln!(html, "<h2>The first {shown}</h2>");
    html.push_str("<p>Before each caption stands its similarity to the image; (exact) marks the true caption, word for word.</p>\n");
    for row in &rows[..shown] {
        push_article(&mut html, row)?;
    }
    html.push_str("</html>\n");
    Ok(html)
}

fn push_table(html: &mut String, rows: &[DemoRow], table: &[TableRow]) {
    html.push_str(
        "<h2>Share of the scenes that captions describe, in %</h2>\n<div class=\"wide\"><table>\n<tr><th>",
    );
    HEADINGS.iter().for_each(|heading| {
        let _ = write!(html, "<th>{heading}");
    });
    for row in table {
        let _ = write!(html, "\n<tr><td>{}", escaped(row.name));
        row.cells().iter().for_each(|cell| {
            let _ = write!(html, "<td>{cell}");
        });
    }
    html.push_str("\n</table></div>\n");
    for note in notes(rows, Bundled::Base.name()) {
        let _ = writeln!(html, "<p>{}</p>", escaped(&note));
    }
}

fn push_article(html: &mut String, row: &DemoRow) -> anyhow::Result<()> {
    let truth = descriptive(&row.scene);
    let _ = writeln!(
        html,
        "<article><img alt=\"{}\" src=\"data:image/png;base64,{}\">\n<div><div class=\"key\">{}</div><dl>",
        escaped(&truth),
        STANDARD.encode(thumbnail(&row.scene)?),
        escaped(&row.key)
    );
    let mut push_caption = |label: &str, caption: &ScoredCaption, exact: bool| {
        let _ = writeln!(
            html,
            "<dt>{label}<dd class=\"similarity\">{:.3}<dd{}>{}{}",
            caption.similarity,
            if exact { " class=\"exact\"" } else { "" },
            escaped(&caption.text),
            if exact { " (exact)" } else { "" }
        );
    };
    push_caption("alt text", &row.alt, false);
    push_caption("short", &row.short, row.short.text == short(&row.scene));
    push_caption("descriptive", &row.descriptive, row.descriptive.text == truth);
    if row.descriptive.text != truth {
        let _ =
            writeln!(html, "<dt>the truth<dd class=\"similarity\"><dd class=\"truth\">{}", escaped(&truth));
    }
    html.push_str("</dl></div></article>\n");
    Ok(())
}

/// Encodes the scene as PNG: flat colours take a kilobyte.
fn thumbnail(scene: &Scene) -> image::ImageResult<Vec<u8>> {
    let mut png = Vec::new();
    let image = draw(scene, SIDE);
    PngEncoder::new(&mut png).write_image(&image, SIDE, SIDE, ExtendedColorType::Rgb8)?;
    Ok(png)
}

/// Escapes text for HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::sample;

    #[test]
    fn page_is_self_contained_and_escapes_captions() {
        let (scene, _) = sample(1, 0);
        let scored = |text: &str| ScoredCaption { text: text.to_owned(), similarity: 0.25 };
        let row = DemoRow {
            key: "00000000000".to_owned(),
            alt: scored("<script src=\"http://x\">&"),
            base: scored(""),
            short: scored(&short(&scene)),
            descriptive: scored("a dog"),
            scene,
        };
        let rows = vec![row; EXAMPLES + 5];
        let html = page(&rows, &TableRow::of_all_sources(&rows)).expect("a page");
        assert!(html.contains("&lt;script src=&quot;http://x&quot;&gt;&amp;") && !html.contains("<script"));
        assert_eq!(
            (html.matches("<img ").count(), html.matches("src=\"data:image/png;base64,").count()),
            (60, 60)
        );
        // One is the explanation.
        assert_eq!((html.matches("(exact)").count(), html.matches("the truth").count()), (61, 60));
        assert!(html.len() < 60 * 4096, "{} bytes", html.len());
    }
}
