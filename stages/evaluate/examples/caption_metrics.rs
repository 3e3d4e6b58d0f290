//! Prints caption metrics of a JSON lines file:
//!
//! ```text
//! cargo run --example caption_metrics -- captions.jsonl
//! ```
//!
//! Each line is `{"caption": "a red star", "references": ["a star", "a red star"]}`.

use std::{error::Error, fs};

use recaption_evaluate::{EvalPair, bleu, cider_d, rouge_l};

#[derive(serde::Deserialize)]
struct Line {
    caption: String,
    references: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: caption_metrics FILE.jsonl")?;
    let mut pairs = Vec::new();
    for (number, line) in fs::read_to_string(&path)?.lines().enumerate() {
        let place = |what: &str| format!("{path}: line {}: {what}", number + 1);
        let line: Line = serde_json::from_str(line).map_err(|error| place(&error.to_string()))?;
        let references: Vec<&str> = line.references.iter().map(String::as_str).collect();
        let pair = EvalPair::new(&line.caption, &references);
        pairs.push(pair.ok_or_else(|| place("a caption needs at least one reference"))?);
    }
    let mean = |scores: Vec<f64>| scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    println!("captions     {}", pairs.len());
    println!("CIDEr-D      {:.4}", mean(cider_d(&pairs)));
    let [one, two, three, four] = bleu(&pairs);
    println!("BLEU-1 to 4  {one:.4}  {two:.4}  {three:.4}  {four:.4}");
    println!("ROUGE-L      {:.4}", mean(rouge_l(&pairs)));
    Ok(())
}
