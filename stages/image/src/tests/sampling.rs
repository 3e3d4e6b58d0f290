//! Sampling factors are decoded as by Pillow, or unsupported. See `tests/data/sampling` for the origin of the files.

use super::*;

fn squashed(name: &str) -> Result<Vec<u8>, DecodeError> {
    let bytes = std::fs::read(data_dir().join("../sampling").join(name)).expect(name);
    let preprocess =
        Preprocess { size: 64, resize_mode: ResizeMode::Squash, interpolation: Interpolation::Bicubic };
    prepare_default(&bytes, &preprocess).map(|prepared| prepared.pixels.into_vec())
}

#[test]
fn upsampling_equals_pillow() {
    for name in ["420", "422", "440", "411", "444_as_2x1"] {
        let jpeg = squashed(&format!("{name}.jpg")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let png = squashed(&format!("{name}.png")).expect(name);
        let (_, mean) = difference(&jpeg, &png);
        assert!(mean < 1.5, "{name}: {mean}");
    }
}

#[test]
fn unsupported_sampling_names_the_remedy() {
    for (name, factors) in [
        ("chroma_finer", "1x1, 2x2, 2x2"),
        ("chroma_wider", "2x1, 4x1, 4x1"),
        ("thirds", "3x1, 1x1, 1x1"),
        ("uneven", "2x1, 1x2, 1x2"),
    ] {
        let error = squashed(&format!("{name}.jpg")).expect_err(name);
        assert!(matches!(error, DecodeError::Unsupported { .. }), "{name}: {error}");
        let said = error.to_string();
        assert!(said.contains(factors) && said.contains("-sampling-factor"), "{said}");
    }
}
