use super::*;
use crate::{Precision, model::{DECODER_FILE, IMAGE_ENCODER_FILE, TEXT_ENCODER_FILE}, wrong_constants::{Exported, case, constants}};
#[test]
fn dump() {
    for p in [Precision::Fp32, Precision::Fp16, Precision::Int8] {
        let exported = Exported::new("square", p);
        let mut seen = std::collections::BTreeSet::new();
        for g in [IMAGE_ENCODER_FILE, TEXT_ENCODER_FILE, DECODER_FILE] {
            for c in constants(&exported.model, g) {
                if !seen.insert(c.name.clone()) { continue }
                let m = exported.changed(&|m| c.spoil(m, c.needed_row(m)));
                let checks = verify(&m, &case("square").join("golden.safetensors"), &SessionOptions::on_cpu(1)).expect("verify");
                let failed: Vec<&str> = checks.iter().filter(|c| c.outcome == Outcome::Fail).map(|c| c.tensor).collect();
                println!("{p} {g} {} {:?}: {} {failed:?} ", c.name, c.dims, if failed.is_empty() { "UNNOTICED" } else { "" });
                if failed.is_empty() { for c in &checks { println!("      {} {}", c.tensor, c.detail); } }
            }
        }
    }
}
