//! Layers, origins, checks and generated documents, on a program of three sections.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::{Description, Layers, Settings, TextList, section};

/// How much care is taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Care {
    /// Little.
    Low,
    /// Much.
    High,
}

section! {
    /// `[work]`
    pub struct WorkSection {
        /// Threads that
        /// work.
        #[schemars(range(min = 1, max = 64), extend("x-flag" = "--threads N"))]
        pub threads: usize = 4,
        /// Share of failures, with a bar | in it.
        #[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 1.0))]
        pub ratio: f64 = 0.5,
        /// Learning rate.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        pub rate: f64 = 1.0,
        /// How much care is taken.
        pub care: Care = Care::Low,
        /// Memory.
        #[schemars(range(min = 1), extend("x-unit" = "bytes"))]
        pub memory: u64 = 4 << 20,
        /// Most pieces.
        #[schemars(range(min = 1), extend("x-default" = "off"))]
        pub limit: Option<u64> = None,
    }
}

section! {
    /// `[io]`
    pub struct IoSection {
        /// Where from.
        #[schemars(extend("x-required" = true, "x-flag" = "--input URL"))]
        pub inputs: TextList = TextList::default(),
        /// Where to.
        #[schemars(extend("x-required" = true))]
        pub output: String = String::new(),
        /// Two numbers.
        #[schemars(extend("x-expected" = "two numbers"))]
        pub pair: [f64; 2] = [0.9, 0.98],
        /// Whether nothing is done.
        pub dry: bool = false,
    }
}

section! {
    /// A program.
    pub struct Program {
        /// How the work is done.
        pub work: WorkSection = WorkSection::default(),
        /// What is read and written.
        pub io: IoSection = IoSection::default(),
    }
}

impl Settings for Program {
    const ENVIRONMENT: &'static str = "PROGRAM_";
    const FOREIGN_ENVIRONMENTS: &'static [&'static str] = &["PROGRAM_OTHER_"];

    fn description() -> &'static Description {
        static DESCRIPTION: OnceLock<Description> = OnceLock::new();
        DESCRIPTION.get_or_init(Description::of::<Self>)
    }
}

fn layers(toml: &str) -> Layers<Program> {
    let mut layers = Layers::default();
    layers.add_toml(toml, "job.toml").expect("a valid file");
    layers
}

#[test]
fn later_layers_win_and_keep_their_origin() {
    let mut all = layers("[work]\nthreads = 3\nratio = 1\n");
    assert_eq!(all.origin("work.threads"), "job.toml");
    let variables = [("PROGRAM_WORK__THREADS", "5"), ("PROGRAM_HOME", "x"), ("PROGRAM_OTHER_WORK__X", "1")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    all.add_environment(variables.into_iter()).expect("a known key");
    assert_eq!(all.origin("work.threads"), "environment variable PROGRAM_WORK__THREADS");
    all.add_assignment("work.threads=7").expect("a known key");
    let work = all.extract_partial().expect("valid").work;
    assert_eq!((work.threads, work.ratio, work.care, work.limit), (7, 1.0, Care::Low, None));
    assert_eq!(all.origin("work.threads"), "--set work.threads=7");
    assert_eq!(all.origin("work.ratio"), "job.toml");
    all.add_toml("[io]\npair = [0.1, 0.2]\n", "job.toml").expect("two numbers");
    all.add_assignment("io.pair=[0.3, 0.4]").expect("two numbers");
    assert_eq!(all.extract_partial().expect("valid").io.pair, [0.3, 0.4]);
    assert_eq!(all.origin("io.pair"), "--set io.pair=[0.3, 0.4]");
    assert_eq!((all.origin("work.care"), all.is_set("work.care")), ("`work.care` (default)".into(), false));
}

#[test]
fn errors_name_the_origin_and_what_is_expected() {
    for (assignment, expected) in [
        ("work.thread=1", "unknown key `work.thread`; did you mean `work.threads`?"),
        ("io.threads=1", "did you mean `work.threads`?"),
        ("work.threads=0", "`work.threads` = 0 is not valid: expected a whole number from 1 to 64"),
        ("work.memory=0", "expected a whole number of at least 1"),
        ("work.ratio=0", "`work.ratio` = 0 is not valid: expected a number from 0 to 1, 0 excluded"),
        ("work.ratio=nan", "expected a number from 0 to 1"),
        ("work.rate=0", "expected a number above 0"),
        ("work.rate=inf", "expected a number above 0"),
        ("work.care=hihg", "`work.care` = \"hihg\" is not valid: expected one of low, high"),
        ("io.inputs=[1]", "expected a string or a list of strings"),
        ("io.dry=yes", "expected true or false"),
        ("io.output=3", "expected a string"),
        ("io.pair=[1]", "`io.pair` = [1] is not valid: expected two numbers: invalid length 1"),
        ("io.dry", "expected section.key=value"),
    ] {
        let error =
            Layers::<Program>::default().add_assignment(assignment).expect_err(assignment).to_string();
        assert!(error.starts_with(&format!("--set {assignment}: ")) && error.contains(expected), "{error}");
    }
    let error = Layers::<Program>::default().add_toml("threads = 1", "job.toml").expect_err("no section");
    assert_eq!(
        error.to_string(),
        "job.toml: `threads` stands outside a section; did you mean `work.threads`?"
    );
}

#[test]
fn required_keys_are_asked_for_with_their_flag() {
    let missing = |layers: &Layers<Program>| layers.extract().expect_err("incomplete").to_string();
    let mut all = Layers::<Program>::default();
    let error = "configuration: `io.inputs` is not set: give it in the file or as --input URL";
    assert_eq!(missing(&all), error);
    all.add_assignment("io.inputs=[]").expect("an empty list");
    assert_eq!(missing(&all), error);
    all.add_assignment("io.inputs=a.tar").expect("a plain string");
    assert!(
        missing(&all).ends_with("`io.output` is not set: give it in the file or as --set io.output=VALUE")
    );
    all.add_assignment("io.output=out").expect("a string");
    assert_eq!(*all.extract().expect("complete").io.inputs, ["a.tar"]);
}

#[test]
fn what_was_set_can_be_described_and_read_again() {
    let mut all = layers("[io]\ninputs = ['https://u:word@h/a.tar?sig=secret', 'b.tar']\npair = [0.1, 1]\n");
    all.add_assignment("work.ratio = 1").expect("a number");
    let described = all.describe();
    assert_eq!(described["io.pair"], "[0.1, 1]");
    assert_eq!(described["work.ratio"], "1");
    assert!(!format!("{described:?}").contains("secret") && !format!("{described:?}").contains("word"));
    let mut again = Layers::<Program>::default();
    again.add_described(&described, "run 1").expect("a description can be read");
    assert_eq!(again.describe(), described);
    assert_eq!(again.origin("io.pair"), "run 1");
}

#[test]
fn effective_values_are_shown_with_their_origin() {
    let mut all = layers("[work]\nthreads = 3\n[io]\ninputs = 'https://h/a.tar?sig=secret'\n");
    all.add_assignment("io.inputs=https://h/a.tar?sig=secret").expect("a string");
    let shown = all.show();
    assert!(shown.contains("[work]\nthreads = 3  # job.toml\n# ratio: 0.5 (default)\n"), "{shown}");
    assert!(shown.contains("# output is not set\n"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
    shown.parse::<toml::Table>().expect("what is shown is TOML");
}

#[test]
fn documents_are_generated_from_the_sections() {
    let description = Program::description();
    assert_eq!(
        description.help("work.threads"),
        "Threads that work [sets work.threads; 1 to 64; default: 4]"
    );
    let page = description.reference("Reference", "PROGRAM_", "program reference");
    for line in [
        "## `[work]`\n\nHow the work is done.\n",
        "| `work.threads` | 4 | integer, 1 to 64 | Threads that work. |",
        "| `work.ratio` | 0.5 | number, 0 to 1, 0 excluded | Share of failures, with a bar \\| in it. |",
        "| `work.care` | low | string, `low`, `high` | How much care is taken. |",
        "| `work.memory` | 4194304 (4 MiB) | integer, at least 1, bytes | Memory. |",
        "| `work.limit` | off | integer, at least 1 | Most pieces. |",
        "| `io.inputs` | required | string or list | Where from. |",
        "| `io.pair` | 0.9, 0.98 | two numbers | Two numbers. |",
    ] {
        assert!(page.contains(line), "{line}\nin\n{page}");
    }
    let schema = description.schema();
    let threads = &schema["properties"]["work"]["properties"]["threads"];
    assert_eq!(
        (&threads["minimum"], &threads["maximum"], &threads["default"]),
        (&1.into(), &64.into(), &4.into())
    );
    assert_eq!(schema["properties"]["work"]["additionalProperties"], false);
}
