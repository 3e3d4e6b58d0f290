//! README and the book as data: fenced blocks, calls of the program in them, headings and links.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A document, by its path from the repository's root.
pub(crate) fn text(page: &str) -> String {
    fs::read_to_string(repository().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"))
}

/// All Markdown files of the repository, by their paths from its root, sorted.
pub(crate) fn pages() -> Vec<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(repository().join(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("UTF-8");
            let path = folder.join(&name);
            if entry.file_type().expect("a type").is_dir() {
                let skipped = name == "target" || (name.starts_with('.') && name != ".github");
                if !skipped {
                    folders.push(path);
                }
            } else if entry.file_type().expect("a type").is_file()
                && path.extension().is_some_and(|extension| extension == "md")
            {
                // A link to a page is no page of its own.
                found.insert(path.display().to_string());
            }
        }
    }
    found.into_iter().collect()
}

/// A fenced block: ```` ```language,key=value ````.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Page and line of the fence.
    pub(crate) place: String,
    /// `sh`, `toml` and so on.
    pub(crate) language: String,
    /// What is missing here: `gpu`, `download`, `build`, `root`, `finetune`, `scheduler`.
    pub(crate) needs: Option<String>,
    /// The name under which the block is stored before later ones run.
    pub(crate) file: Option<String>,
    /// Its lines.
    pub(crate) text: String,
}

/// The blocks of a page, in order.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text(page).lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let mut words = info.split(',').map(str::trim);
                let language = words.next().unwrap_or_default().to_owned();
                let mut block = Block {
                    place: format!("{page}:{}", number + 1),
                    language,
                    needs: None,
                    file: None,
                    text: String::new(),
                };
                for word in words {
                    match word.split_once('=') {
                        Some(("needs", value)) => block.needs = Some(value.to_owned()),
                        Some(("file", value)) => block.file = Some(value.to_owned()),
                        _ if word == "ignore" || word == "no_run" => {}
                        _ => panic!("{}: unknown tag {word:?}", block.place),
                    }
                }
                open = Some(block);
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: a block is not closed");
    blocks
}

/// A call of the program in a shell block: subcommand and long flags.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// `run`, `export`; empty for `recaption --version`.
    pub(crate) subcommand: String,
    /// `--model` and so on.
    pub(crate) flags: Vec<String>,
}

/// Flags with a value that may stand before the subcommand.
const GLOBAL_FLAGS: &[&str] = &["--log-format", "--log-level"];

/// Calls of `recaption` in a shell script. Quoted operators would be taken for operators; no block has any.
pub(crate) fn invocations(script: &str) -> Vec<Invocation> {
    let joined = script.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in joined.lines() {
        let line = line.split_once(" #").map_or(line, |(code, _)| code);
        for command in line.split(['|', ';', '&']) {
            let mut words = command.split_whitespace().skip_while(|word| {
                word.split_once('=').is_some_and(|(name, _)| {
                    !name.is_empty()
                        && name.chars().all(|c| c.is_ascii_uppercase() || "_0123456789".contains(c))
                })
            });
            if words.next() != Some("recaption") {
                continue;
            }
            let words: Vec<&str> = words.collect();
            let mut at = 0;
            while words.get(at).is_some_and(|word| GLOBAL_FLAGS.contains(word)) {
                at += 2;
            }
            let subcommand = words.get(at).filter(|word| !word.starts_with('-'));
            let flags = words.iter().filter(|word| word.starts_with("--"));
            found.push(Invocation {
                subcommand: subcommand.map_or_else(String::new, ToString::to_string),
                flags: flags.map(|flag| flag.split('=').next().unwrap_or(flag).to_owned()).collect(),
            });
        }
    }
    found
}

/// The page without fenced blocks and inline code.
fn prose(page: &str) -> String {
    let mut prose = String::new();
    let mut fenced = false;
    for line in text(page).lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            for (n, piece) in line.split('`').enumerate() {
                prose.push_str(if n % 2 == 0 { piece } else { "code" });
            }
            prose.push('\n');
        }
    }
    prose
}

/// Targets of the page's links and images that lead to files of the repository.
pub(crate) fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    local.map(str::to_owned).collect()
}

/// Anchors of the page's headings, as GitHub and mdBook make them.
pub(crate) fn anchors(page: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in text(page).lines() {
        fenced ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || !line.starts_with('#') || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        anchors.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    anchors
}

/// Paths of the repository in inline code: `scripts/fault_soak.py`, without patterns and placeholders.
pub(crate) fn paths_in_code(page: &str) -> Vec<String> {
    const FOLDERS: &[&str] = &[
        "scripts",
        "tests",
        "onnx",
        "stages",
        "benchmarks",
        "examples",
        "docs",
        "schemas",
        "pipeline",
        "fuzz",
    ];
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text(page).lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for code in line.split('`').skip(1).step_by(2) {
            let word = code.split_whitespace().find(|word| word.contains('/')).unwrap_or_default();
            let is_path = word.split('/').next().is_some_and(|first| FOLDERS.contains(&first));
            if is_path && !word.contains(['*', '<', '{', '$', ':']) {
                found.push(word.to_owned());
            }
        }
    }
    found
}
