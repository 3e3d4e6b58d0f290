//! ALBEF's outputs, losses, gradients and five steps against the authors' code (scripts/make_albef_training_goldens.py).

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use burn::tensor::{Device, Tensor};
use recaption_finetune::{
    albef_files::{AlbefFiles, AlbefOverrides},
    batch::{Batch, PatchSettings},
    image_encoder::read_image_encoder,
    model::{
        Coca, Parameters,
        albef::{Albef, AlbefConfig, table},
        host,
    },
    objective::albef::{AlbefInputs, IGNORED_LABEL, MaskedTexts, Negatives, alpha_at, losses, mask_texts},
    open_clip::OpenClip,
    optim::{AdamW, AdamWSettings, Group},
    random::Random,
    run::compare_albef,
};
use recaption_onnx::checkpoint::Dtype;
use safetensors::SafeTensors;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/albef-train")
}

fn read() -> AlbefFiles {
    AlbefFiles::read(&data(), None, 0).expect("a checkpoint")
}

fn model(files: AlbefFiles, device: &Device) -> Albef {
    let trained: Vec<bool> = files.list.iter().map(|p| table::is_trained(&p.name)).collect();
    Albef { config: files.config, parameters: Parameters::new(files.list, files.values, &trained, device) }
}

struct Golden(Vec<u8>);

impl Golden {
    fn read() -> Self {
        Self(fs::read(data().join("golden.safetensors")).expect("the fixture"))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let tensors = SafeTensors::deserialize(&self.0).expect("safetensors");
        tensors.tensor(name).expect(name).data().to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        self.bytes(name).as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.integers(name).into_iter().map(|i| usize::try_from(i).expect("an index")).collect()
    }

    fn batch(&self) -> Batch {
        let ids = self.rows("ids", None);
        let attended = self.rows("attention_mask", None);
        let length = |row: &Vec<i64>| row.iter().filter(|a| **a == 1).count();
        let ids = ids.into_iter().zip(&attended).map(|(row, a)| row[..length(a)].to_vec()).collect();
        let keys = attended.iter().enumerate().map(|(i, _)| i.to_string()).collect();
        Batch { keys, pixels: self.bytes("images"), ids }
    }

    fn rows(&self, name: &str, texts: Option<&[Vec<i64>]>) -> Vec<Vec<i64>> {
        let values = self.integers(name);
        let rows = values.chunks_exact(10).enumerate();
        rows.map(|(i, row)| row[..texts.map_or(10, |texts| texts[i].len())].to_vec()).collect()
    }
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
}

#[test]
fn outputs_losses_and_gradients_equal_the_authors() {
    let checks = compare_albef(&data(), &data().join("golden.safetensors")).expect("a comparison");
    let trained = read().list.iter().filter(|p| table::is_trained(&p.name)).count();
    // Four outputs, three losses, and every trained parameter's gradient.
    assert_eq!(checks.len(), 7 + trained);
    for check in &checks {
        assert!(check.passed, "{check}");
    }
}

/// The program prints a verdict for each and fails where one differs.
#[test]
fn other_weights_fail_the_comparison() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut files = read();
    let at = files.list.iter().position(|p| p.name == "itm_head.weight").expect("a parameter");
    files.values[at][3] += 0.5;
    files.write(folder.path(), Dtype::F32).expect("written");
    let compare = |dir: &Path| {
        let golden = data().join("golden.safetensors");
        let mut command = Command::new(env!("CARGO_BIN_EXE_recaption-finetune"));
        command.arg("--golden").arg(golden).arg("--checkpoint").arg(dir).output().expect("it starts")
    };
    let same = compare(&data());
    let text = String::from_utf8_lossy(&same.stdout);
    assert!(same.status.success() && text.contains("ok loss_itm") && !text.contains("FAIL"), "{text}");
    let other = compare(folder.path());
    let text = String::from_utf8_lossy(&other.stdout);
    assert_eq!(other.status.code(), Some(1), "{text}");
    for line in ["ok loss_ita", "FAIL loss_itm", "ok loss_mlm", "FAIL itm_logits"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn five_steps_with_queue_and_momentum_equal_the_authors() {
    let device = Device::flex().autodiff();
    let (mut model, golden) = (model(read(), &device), Golden::read());
    let batch = golden.batch();
    let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weight_decay: 0.02 };
    let group = |p: &recaption_onnx::checkpoint::Parameter| Group {
        trained: table::is_trained(&p.name),
        lr_scale: 1.0,
        decay: p.shape.len() >= 2,
    };
    let groups = model.parameters.list().iter().map(group).collect();
    let mut optimizer = AdamW::new(settings, groups);
    let want = golden.floats("losses");
    for (k, want) in want.chunks_exact(3).enumerate() {
        model.clamp_temperature();
        model.update_momentum(model.config.momentum);
        let masked = golden.rows(&format!("masked_ids_{k}"), Some(&batch.ids));
        let labels = golden.rows(&format!("mlm_labels_{k}"), Some(&batch.ids));
        let masked = MaskedTexts::with_labels(masked, &labels);
        let negatives = Negatives {
            images: golden.indices(&format!("negative_image_{k}")),
            texts: golden.indices(&format!("negative_text_{k}")),
        };
        let inputs = AlbefInputs {
            patches: batch.patches(&PatchSettings::of_albef(&model.config), &device),
            texts: &batch.ids,
            masked: &masked,
            negatives: Some(negatives),
            alpha: 0.1 * k as f64,
        };
        let found = losses(&model, inputs, &mut Random::new(0, &[]));
        let words = found.words.expect("masked words");
        let got = [&found.contrastive, &found.matching, &words].map(|loss| host(loss)[0]);
        close(&format!("losses of step {k}"), &got, want, 1e-4);
        let mut gradients = (found.contrastive + found.matching + words).backward();
        let gradients = model.parameters.take_gradients(&mut gradients);
        let [images, texts] = found.momentum_features;
        model.enqueue(images, texts);
        let values = optimizer.step(model.parameters.values(), gradients, 1e-3, 1.0);
        model.parameters.replace(values);
    }
    for (name, after) in [
        (table::IMAGE_QUEUE, "image_queue_after"),
        (table::TEXT_QUEUE, "text_queue_after"),
        ("vision_proj_m.weight", "vision_proj_m_after"),
    ] {
        close(name, &host(&model.parameters.vector(name)), &golden.floats(after), 1e-4);
    }
    assert_eq!(model.queue_position() as i64, golden.integers("queue_ptr_after")[0]);
}

#[test]
fn checkpoint_is_written_under_the_authors_names() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = read();
    files.write(folder.path(), Dtype::F32).expect("written");
    let (old, new) =
        (fs::read(data().join("albef.safetensors")), fs::read(folder.path().join("albef.safetensors")));
    let (old, new) = (old.expect("a file"), new.expect("a file"));
    let (old, new) =
        (SafeTensors::deserialize(&old).expect("old"), SafeTensors::deserialize(&new).expect("new"));
    let mut names = new.names();
    names.sort();
    let mut wanted = old.names();
    wanted.sort();
    assert_eq!(names, wanted);
    for name in names {
        let (old, new) = (old.tensor(name).expect(name), new.tensor(name).expect(name));
        assert_eq!((old.dtype(), old.shape()), (new.dtype(), new.shape()), "{name}");
        assert!(old.data() == new.data(), "{name}");
    }
    let json = |dir: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(dir.join("config.json")).expect("a file")).expect("JSON")
    };
    let mut wanted = json(&data());
    // What the authors' code fixes is written too.
    wanted["max_text_tokens"] = 25.into();
    assert_eq!(json(folder.path()), wanted);
}

/// Weights without momentum copy and queues begin with a copy, and with unit vectors.
#[test]
fn random_weights_begin_with_copies_and_unit_queues() {
    let overrides = AlbefOverrides {
        queue_size: 20,
        momentum: 0.99,
        alpha: 0.2,
        mlm_probability: 0.3,
        max_text_tokens: 10,
        temperature: 0.1,
    };
    let files = AlbefFiles::initialise(&data(), Some(&overrides), 3).expect("a configuration");
    let value = |name: &str| {
        let at = files.list.iter().position(|p| p.name == name).expect(name);
        &files.values[at]
    };
    assert_eq!(value("vision_proj.weight"), value("vision_proj_m.weight"));
    let word = "bert.embeddings.word_embeddings.weight";
    assert_eq!(value(&format!("text_encoder.{word}")), value(&format!("text_encoder_m.{word}")));
    assert_eq!((value("temp").as_slice(), value("queue_ptr").as_slice()), (&[0.1_f32][..], &[0.0_f32][..]));
    let queue = value("image_queue");
    assert_eq!(queue.len(), 8 * 20);
    for column in 0..20 {
        let norm: f32 = (0..8).map(|row| queue[row * 20 + column].powi(2)).sum();
        assert!((norm - 1.0).abs() < 1e-5, "column {column}: {norm}");
    }
    assert_ne!(queue, value("text_queue"));
    // Of a checkpoint with another queue only the queues are drawn again.
    let read = AlbefFiles::read(&data(), Some(&overrides), 3).expect("a checkpoint");
    let at = read.list.iter().position(|p| p.name == "image_queue").expect("a queue");
    assert_eq!(&read.values[at], queue);
    assert_eq!(read.values[0], AlbefFiles::read(&data(), None, 0).expect("a checkpoint").values[0]);
}

#[test]
fn masking_follows_berts_shares() {
    let config =
        AlbefConfig::parse(&fs::read_to_string(data().join("config.json")).expect("a file")).expect("valid");
    let texts: Vec<Vec<i64>> = (0..4000).map(|_| vec![2, 7, 8, 9, 10, 3]).collect();
    let masked = mask_texts(&texts, &config, 0.15, &mut Random::new(1, &[]));
    let total = 4000.0 * 5.0;
    let (mut mask, mut kept) = (0, 0);
    for (text, position, label) in &masked.labels {
        assert_eq!(texts[*text][*position], *label);
        assert_ne!(*position, 0, "[CLS] is never predicted");
        match masked.ids[*text][*position] {
            4 => mask += 1,
            id if id == *label => kept += 1,
            id => assert!((0..50).contains(&id)),
        }
    }
    let chosen = masked.labels.len() as f64;
    assert!((chosen / total - 0.15).abs() < 0.01, "{chosen}");
    assert!((f64::from(mask) / chosen - 0.8).abs() < 0.02, "{mask} of {chosen}");
    // A fiftieth of the random words is the same one, and a fiftieth is [MASK].
    assert!((f64::from(kept) / chosen - 0.102).abs() < 0.02, "{kept} of {chosen}");
    let changed = masked.ids.iter().flatten().zip(texts.iter().flatten()).filter(|(a, b)| a != b).count();
    assert_eq!(changed, masked.labels.len() - kept as usize, "other tokens stay");
    assert_eq!(mask_texts(&texts, &config, 0.15, &mut Random::new(1, &[])), masked);
    assert_eq!(mask_texts(&texts, &config, 0.0, &mut Random::new(1, &[])).labels, []);
    let labels = vec![vec![IGNORED_LABEL, 5], vec![6, IGNORED_LABEL]];
    assert_eq!(MaskedTexts::with_labels(vec![vec![2, 4]; 2], &labels).labels, [(0, 1, 5), (1, 0, 6)]);
}

#[test]
fn alpha_rises_over_the_first_epoch() {
    assert_eq!(alpha_at(0.4, 0, 10), 0.0);
    assert!((alpha_at(0.4, 5, 10) - 0.2).abs() < 1e-12);
    assert_eq!((alpha_at(0.4, 10, 10), alpha_at(0.4, 99, 10), alpha_at(0.4, 0, 0)), (0.4, 0.4, 0.4));
}

fn values(x: Tensor<2>) -> Vec<f32> {
    x.into_data_as::<f32>().try_into_vec().expect("floats")
}

/// The class token, projected as the captioner projects it, is the captioner's image embedding.
#[test]
fn image_tower_of_an_open_clip_model_computes_the_same_as_its_own() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let captioner = package.join("../../onnx/models/coca-scenes-base");
    let device = Device::flex();
    let mut files =
        AlbefFiles::initialise(&package.join("recipes/scenes-albef"), None, 1).expect("a configuration");
    files.replace(read_image_encoder(&captioner, &files.config).expect("its image tower"));
    let config = files.config.clone();
    let frozen = vec![false; files.list.len()];
    let parameters = Parameters::new(files.list, files.values, &frozen, &device);
    let (albef, side) = (Albef { config: files.config, parameters }, config.image_res);
    let pixels: Vec<u8> = (0..2 * side * side * 3).map(|i| (i * 7919 % 251) as u8).collect();
    let batch = Batch { keys: vec!["a".into(), "b".into()], pixels, ids: vec![vec![1, 2, 3]; 2] };

    let open_clip = OpenClip::read(&captioner).expect("a captioner");
    let projection = open_clip.list.iter().position(|p| p.name == "visual.proj").expect("a projection");
    let projection = open_clip.values[projection].clone();
    let frozen = vec![false; open_clip.list.len()];
    let parameters = Parameters::new(open_clip.list, open_clip.values, &frozen, &device);
    let coca = Coca::new(open_clip.config, parameters).expect("a CoCa");
    let inputs = batch.to_device(&coca.config, &device);
    let wanted = values(coca.forward(inputs.patches, &inputs.texts, true, false).image_features);

    for encoders in [albef.encoders(), albef.momentum_encoders()] {
        let tokens = encoders.image(batch.patches(&PatchSettings::of_albef(&config), &device));
        let [images, _, width] = tokens.dims();
        let class = values(tokens.narrow(1, 0, 1).reshape([images, width]));
        let embed = projection.len() / width;
        for (class, wanted) in class.chunks_exact(width).zip(wanted.chunks_exact(embed)) {
            let column =
                |e: usize| class.iter().enumerate().map(|(i, x)| x * projection[i * embed + e]).sum();
            let projected: Vec<f32> = (0..embed).map(column).collect();
            let norm = projected.iter().map(|x| x * x).sum::<f32>().sqrt();
            close("features", &projected.iter().map(|x| x / norm).collect::<Vec<_>>(), wanted, 1e-5);
        }
    }
    for (other, words) in [
        (AlbefConfig { vision_norm_pre: false, ..config.clone() }, "set `vision_norm_pre` = true"),
        (AlbefConfig { vision_norm_eps: 1e-6, ..config.clone() }, "set `vision_norm_eps` = 0.00001"),
        (AlbefConfig { vision_depth: 3, ..config }, "has 4, but config.json's vision_depth is 3"),
    ] {
        let error = read_image_encoder(&captioner, &other).expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    }
}
