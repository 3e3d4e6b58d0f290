use recaption_stages::decode::*;
fn main() {
    let mut names: Vec<_> = std::fs::read_dir("/tmp/i11-jpegs")
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "jpg"))
        .collect();
    names.sort();
    let pre =
        Preprocess { size: 128, resize_mode: ResizeMode::Squash, interpolation: Interpolation::Bicubic };
    for name in names {
        let get = |p: &std::path::Path| {
            prepare(&std::fs::read(p).unwrap(), None, &pre, &DecodeOptions::default())
                .map(|p| p.pixels.into_vec())
        };
        let a = get(&name);
        let b = get(&name.with_extension("png")).unwrap();
        match a {
            Err(e) => println!("{} REJECT {e}", name.file_stem().unwrap().display()),
            Ok(a) => {
                let max = a.iter().zip(&b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                let mean =
                    a.iter().zip(&b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64;
                println!("{} mean {mean:.2} max {max}", name.file_stem().unwrap().display());
            }
        }
    }
}
