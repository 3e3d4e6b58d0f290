//! Which GPUs of a machine are used.

use std::{fmt, str::FromStr};

/// GPUs, by number.
///
/// ```
/// use recaption_onnx::runtime::Devices;
///
/// assert_eq!("0,2".parse(), Ok(Devices::Numbered(vec![0, 2])));
/// assert_eq!("all".parse(), Ok(Devices::All));
/// assert!("0,0".parse::<Devices>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// These numbers: at least one, without repetition.
    Numbered(Vec<u32>),
    /// All GPUs that are visible to CUDA, see `CUDA_VISIBLE_DEVICES`.
    All,
}

impl Devices {
    /// Returns the number of the first GPU.
    #[must_use]
    pub fn first(&self) -> u32 {
        match self {
            Self::Numbered(numbers) => numbers.first().copied().unwrap_or(0),
            Self::All => 0,
        }
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::Numbered(vec![0])
    }
}

impl FromStr for Devices {
    type Err = String;

    /// Parses `all`, or numbers separated by commas: `0,1,3`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "all" {
            return Ok(Self::All);
        }
        let numbers: Option<Vec<u32>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
        let numbers =
            numbers.ok_or_else(|| format!("`{text}` is neither `all` nor numbers such as 0 or 0,1,2"))?;
        match numbers.iter().enumerate().find(|(i, number)| numbers[..*i].contains(number)) {
            Some((_, twice)) => Err(format!("`{text}` lists GPU {twice} twice")),
            None => Ok(Self::Numbered(numbers)),
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Numbered(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
                f.write_str(&numbers.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse_and_display() {
        for (text, devices) in [
            ("0", Devices::Numbered(vec![0])),
            ("0, 1,3", Devices::Numbered(vec![0, 1, 3])),
            ("all", Devices::All),
        ] {
            assert_eq!(text.parse(), Ok(devices.clone()), "{text}");
            assert_eq!(devices.to_string().parse(), Ok(devices));
        }
        for (text, word) in [("", "neither"), ("one", "neither"), ("-1", "neither"), ("0,1,0", "GPU 0 twice")]
        {
            let error = text.parse::<Devices>().expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
