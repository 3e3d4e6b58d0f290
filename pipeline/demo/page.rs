//! The page: pictures beside what is said of them. One file that needs nothing else, neither network nor scripts.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use recaption_onnx::Bundled;

use super::{
    rows::{Row, Said},
    summary::{HEADINGS, Summary, notes},
};
use crate::scenes::{Scene, descriptive, draw, short};

/// Pictures that are shown: a page that opens at once.
const PICTURES: usize = 60;
/// Width and height of a picture, in pixels.
const SIDE: u32 = 112;

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>recaption demo</title>
<style>
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; background: #fff; color: #222; font: 16px/1.45 system-ui, sans-serif }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4 } th { font-weight: 600 }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: nowrap }
p, .key { color: #666 } .wide { overflow-x: auto }
article { display: flex; gap: 1.1rem; padding: .9rem 0; border-top: 1px solid #e4e4e4 }
article img { flex: none; width: 112px; height: 112px; border-radius: 4px }
dl { display: grid; grid-template-columns: 6rem 3.2rem 1fr; gap: .15rem .6rem; margin: 0 }
dt, .similarity { color: #666 } dd { margin: 0 } .similarity { font-variant-numeric: tabular-nums }
.exact { color: #1a7f37 } .truth { color: #666; font-style: italic }
</style>
<h1>recaption demo</h1>
"#;

/// The page as HTML.
///
/// # Errors
/// When a picture cannot be encoded.
pub fn page(rows: &[Row], summaries: &[Summary]) -> anyhow::Result<String> {
    let mut html = String::from(HEAD);
    let shown = rows.len().min(PICTURES);
    let _ = writeln!(
        html,
        "<p>{} drawn scenes with alt texts such as the web has, captioned by {} (short captions) and {} (descriptive captions).</p>",
        rows.len(),
        Bundled::Ssc.name(),
        Bundled::Dsc.name()
    );
    table(&mut html, rows, summaries);
    let _ = writeln!(html, "<h2>The first {shown}</h2>");
    for row in &rows[..shown] {
        article(&mut html, row)?;
    }
    html.push_str("</html>\n");
    Ok(html)
}

fn table(html: &mut String, rows: &[Row], summaries: &[Summary]) {
    html.push_str("<h2>How much of the scenes is told, in %</h2>\n<div class=\"wide\"><table>\n<tr><th>");
    HEADINGS.iter().for_each(|heading| {
        let _ = write!(html, "<th>{heading}");
    });
    for summary in summaries {
        let _ = write!(html, "\n<tr><td>{}", escaped(summary.name));
        summary.cells().iter().for_each(|cell| {
            let _ = write!(html, "<td>{cell}");
        });
    }
    let _ =
        writeln!(html, "\n</table></div>\n<p>{}</p>", escaped(&notes(rows, Bundled::Base.name()).join(" ")));
}

fn article(html: &mut String, row: &Row) -> anyhow::Result<()> {
    let truth = descriptive(&row.scene);
    let _ = writeln!(
        html,
        "<article><img alt=\"{}\" src=\"data:image/png;base64,{}\">\n<div><div class=\"key\">{}</div><dl>",
        escaped(&truth),
        STANDARD.encode(thumbnail(&row.scene)?),
        escaped(&row.key)
    );
    let mut line = |word: &str, said: &Said, exact: bool| {
        let _ = writeln!(
            html,
            "<dt>{word}<dd class=\"similarity\">{:.3}<dd{}>{}{}",
            said.similarity,
            if exact { " class=\"exact\"" } else { "" },
            escaped(&said.text),
            if exact { " (exact)" } else { "" }
        );
    };
    line("alt text", &row.alt, false);
    line("short", &row.short, row.short.text == short(&row.scene));
    line("descriptive", &row.descriptive, row.descriptive.text == truth);
    if row.descriptive.text != truth {
        let _ = writeln!(html, "<dt>the truth<dd><dd class=\"truth\">{}", escaped(&truth));
    }
    html.push_str("</dl></div></article>\n");
    Ok(())
}

/// A PNG: flat colours take a kilobyte.
fn thumbnail(scene: &Scene) -> image::ImageResult<Vec<u8>> {
    let mut png = Vec::new();
    let picture = draw(scene, SIDE);
    PngEncoder::new(&mut png).write_image(&picture, SIDE, SIDE, ExtendedColorType::Rgb8)?;
    Ok(png)
}

/// Text as HTML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenes::sample;

    #[test]
    fn a_page_needs_nothing_else_and_takes_no_caption_for_markup() {
        let (scene, _) = sample(1, 0);
        let said = |text: &str| Said { text: text.to_owned(), similarity: 0.25 };
        let row = Row {
            key: "00000000000".to_owned(),
            alt: said("<script src=\"http://x\">&"),
            base: said(""),
            short: said(&short(&scene)),
            descriptive: said("a dog"),
            scene,
        };
        let rows = vec![row; PICTURES + 5];
        let html = page(&rows, &Summary::of_all(&rows)).expect("a page");
        assert!(html.contains("&lt;script src=&quot;http://x&quot;&gt;&amp;") && !html.contains("<script"));
        assert_eq!(
            (html.matches("<img ").count(), html.matches("src=\"data:image/png;base64,").count()),
            (60, 60)
        );
        assert_eq!((html.matches("(exact)").count(), html.matches("the truth").count()), (60, 60));
        assert!(html.len() < 60 * 4096, "{} bytes", html.len());
    }
}
