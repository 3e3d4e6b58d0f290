//! `Report -> HTML`. Totals and tables are HTML; sample, filters and slider are made by a script from JSON in the page.
//!
//! The page loads nothing and its content security policy forbids it: scripts and styles are allowed by digest, images as data
//! URLs. Texts of the dataset are escaped in HTML, and reach the script as JSON, which sets them as text.

mod chart;
mod data;
mod scores;
mod tables;
mod text;

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use recaption_schemas::sha256_hex;

use self::{
    scores::Scale,
    text::{escaped, grouped, json_for_script},
};
use super::content::Report;

/// A page is smaller, whatever the size of an output.
pub(super) const MAX_BYTES: usize = 20_000_000;
/// Bytes of thumbnails in a page, base64, at most.
const MAX_IMAGE_BYTES: usize = 11_000_000;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

impl Report {
    /// Returns the page, below 20 MB. Thumbnails that do not fit are left out.
    ///
    /// # Errors
    /// Returns an error when the page cannot be formatted.
    pub(crate) fn to_html(&self) -> anyhow::Result<String> {
        let mut bytes_of_images = MAX_IMAGE_BYTES;
        loop {
            let html = self.page(bytes_of_images)?;
            if html.len() < MAX_BYTES || bytes_of_images == 0 {
                return Ok(html);
            }
            bytes_of_images = bytes_of_images.saturating_sub(html.len() - MAX_BYTES + 1_000_000);
        }
    }

    fn page(&self, bytes_of_images: usize) -> anyhow::Result<String> {
        let statistics = &self.statistics;
        let scales = Scale::all(statistics);
        let mut html = String::new();
        self.write_head(&mut html, !scales.is_empty())?;
        tables::write_totals(&mut html, self)?;
        scores::write(&mut html, self, &scales)?;
        self.write_sample(&mut html)?;
        tables::write_rejects(&mut html, self)?;
        tables::write_texts(&mut html, self)?;
        tables::write_images(&mut html, self)?;
        tables::write_configuration(&mut html, self)?;
        write!(
            html,
            "</main><footer>Made by recaption {}. The sample was drawn with seed {}.</footer>",
            env!("CARGO_PKG_VERSION"),
            self.seed
        )?;
        let data = json_for_script(&data::data(self, &scales, bytes_of_images))?;
        writeln!(
            html,
            "<script type=\"application/json\" id=\"data\">{data}</script><script>{SCRIPT}</script></body></html>"
        )?;
        Ok(html)
    }

    fn write_head(&self, html: &mut String, has_threshold: bool) -> anyhow::Result<()> {
        let (title, policy) = (escaped(&self.source.title), policy()?);
        write!(
            html,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"referrer\" content=\"no-referrer\"><meta name=\"generator\" content=\"recaption {}\">\
             <title>{title}</title><style>{STYLE}</style></head><body><header><h1>{title}</h1><p class=\"sub\">{} captions, {} rejects</p>",
            env!("CARGO_PKG_VERSION"),
            grouped(self.statistics.captions),
            grouped(self.statistics.rejects()),
        )?;
        html.push_str("<nav aria-label=\"Sections\"><ul>");
        let sections = [
            ("threshold", "Threshold", has_threshold),
            ("samples", "Sample", true),
            ("rejects", "Rejects", true),
            ("texts", "Captions", self.statistics.captions > 0),
            ("images", "Images", self.statistics.captions > 0),
            ("configuration", "Configuration", true),
        ];
        for (id, name, _) in sections.into_iter().filter(|(_, _, is_there)| *is_there) {
            write!(html, "<li><a href=\"#{id}\">{name}</a></li>")?;
        }
        html.push_str("</ul></nav></header><main>");
        Ok(())
    }

    /// Writes the filters and the place of the cards.
    fn write_sample(&self, html: &mut String) -> std::fmt::Result {
        write!(
            html,
            "<section id=\"samples\"><h2>Sample</h2><p class=\"lead\">{} captions of {}, and {} rejects, drawn at random.</p>\
             <noscript><p>The sample is shown with JavaScript; all totals and tables are here without it.</p></noscript>\
             <div data-script hidden><div class=\"controls\">\
             <div class=\"field wide\"><label for=\"word\">Contains</label><input type=\"search\" id=\"word\" autocomplete=\"off\"></div>\
             <div class=\"field narrow\"><label for=\"least\">Score from</label><input type=\"number\" id=\"least\" step=\"0.01\" min=\"-1\" max=\"1\"></div>\
             <div class=\"field narrow\"><label for=\"most\">Score to</label><input type=\"number\" id=\"most\" step=\"0.01\" min=\"-1\" max=\"1\"></div>\
             <div class=\"field\"><label for=\"kind\">Outcome</label><select id=\"kind\"><option value=\"\">captioned</option>\
             <option value=\"rejects\">all rejects</option>",
            grouped(self.captions.len() as u64),
            grouped(self.statistics.captions),
            grouped(self.rejects.len() as u64)
        )?;
        for reason in self.statistics.reasons.keys() {
            let reason = escaped(reason);
            write!(html, "<option value=\"reason:{reason}\">{reason}</option>")?;
        }
        let matching = if self.statistics.itm.scored > 0 {
            "<option value=\"match\">highest itm</option><option value=\"mismatch\">lowest itm</option>"
        } else {
            ""
        };
        write!(
            html,
            "</select></div><div class=\"field\"><label for=\"order\">Order</label><select id=\"order\"><option value=\"\">random</option>\
             <option value=\"high\">highest score</option><option value=\"low\">lowest score</option>\
             <option value=\"gain\">largest gain</option><option value=\"loss\">largest loss</option>{matching}</select></div></div>\
             <p class=\"count\" id=\"shown\" role=\"status\"></p><ul class=\"cards\" id=\"sample\"></ul>\
             <div class=\"more\"><button type=\"button\" id=\"more\">Show more</button></div></div></section>",
        )
    }
}

/// Returns the content security policy: nothing may be loaded, and only this page's script and style apply.
fn policy() -> anyhow::Result<String> {
    let digest = |text: &str| -> anyhow::Result<String> {
        let hex = sha256_hex(text.as_bytes());
        let bytes: Result<Vec<u8>, _> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16)).collect();
        Ok(STANDARD.encode(bytes?))
    };
    Ok(format!(
        "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        digest(STYLE)?,
        digest(SCRIPT)?
    ))
}
