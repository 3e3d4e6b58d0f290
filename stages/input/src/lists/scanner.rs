//! One record of delimited values, byte by byte.

/// Most values of a record.
pub(super) const MAX_FIELDS: usize = 4096;

/// Position of the scanner within a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of a value.
    Start,
    /// In an unquoted value, or after text that follows a closing quote.
    Plain,
    /// In a quoted value.
    Quoted,
    /// After a quote in a quoted value: it closes the value, or is the first of two that stand for one.
    Quote,
}

/// Splits the lines of one record into values.
pub(super) struct FieldScanner {
    delimiter: u8,
    fields: Vec<Vec<u8>>,
    field: Vec<u8>,
    state: State,
    /// Whether text followed a closing quote.
    pub(super) has_text_after_quote: bool,
}

impl FieldScanner {
    pub(super) fn new(delimiter: u8) -> Self {
        Self {
            delimiter,
            fields: Vec::new(),
            field: Vec::new(),
            state: State::Start,
            has_text_after_quote: false,
        }
    }

    /// Scans the text of a line.
    pub(super) fn push(&mut self, text: &[u8]) {
        for &byte in text {
            self.state = match (self.state, byte) {
                (State::Start, b'"') => State::Quoted,
                (State::Quoted, b'"') => State::Quote,
                (State::Quote, b'"') => {
                    self.field.push(b'"');
                    State::Quoted
                }
                (State::Start | State::Plain | State::Quote, byte) if byte == self.delimiter => {
                    if self.fields.len() <= MAX_FIELDS {
                        self.fields.push(std::mem::take(&mut self.field));
                    }
                    State::Start
                }
                (State::Quoted, byte) => {
                    self.field.push(byte);
                    State::Quoted
                }
                (state, byte) => {
                    self.has_text_after_quote |= state == State::Quote;
                    self.field.push(byte);
                    State::Plain
                }
            };
        }
    }

    /// Returns whether a quoted value is open.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Quoted
    }

    /// Adds the end of a line to the open quoted value.
    pub(super) fn push_line_end(&mut self, end: &[u8]) {
        self.field.extend_from_slice(end);
    }

    /// Ends the record and returns its values.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        self.fields.push(std::mem::take(&mut self.field));
        self.state = State::Start;
        std::mem::take(&mut self.fields)
    }
}
