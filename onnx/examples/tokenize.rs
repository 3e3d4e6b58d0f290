//! Ids of texts, as a model's text encoder gets them.
//!
//!     cargo run --release -p recaption-onnx --example tokenize -- TOKENIZER.json VOCABULARY CONTEXT
//!
//! Reads JSON strings from stdin, one per line, and prints a JSON list of ids for each: start, words, end, cut to CONTEXT
//! ids. Start and end are the last two of VOCABULARY ids. `scripts/build_tokenizer.py --check` compares them.

use std::{
    io::{BufRead, Write},
    path::Path,
    process::ExitCode,
};

use recaption_onnx::{model::SpecialIds, tokenizer::Tokenizer};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, vocabulary, context] = arguments.as_slice() else {
        eprintln!("usage: tokenize TOKENIZER.json VOCABULARY CONTEXT < LINES");
        return ExitCode::from(2);
    };
    match tokenize(Path::new(file), vocabulary, context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn tokenize(file: &Path, vocabulary: &str, context: &str) -> Result<(), Failure> {
    let (vocabulary, context) = (vocabulary.parse::<u32>()?, context.parse::<usize>()?.max(3));
    let end = i64::from(vocabulary) - 1;
    let special = SpecialIds { pad: 0, start: end - 1, end };
    let tokenizer = Tokenizer::from_file(file, special, context, vocabulary as usize)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        serde_json::to_writer(&mut out, &tokenizer.encode(&text)?.ids)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
