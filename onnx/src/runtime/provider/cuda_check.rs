//! Checks the requirements of CUDA in order: an ONNX Runtime that was built with it, NVIDIA's driver, NVIDIA's libraries, and a
//! graph that runs on the GPU.
//!
//! Libraries in pip's layout next to ONNX Runtime are loaded here by path, which makes `LD_LIBRARY_PATH` unnecessary: the
//! system's loader does not search for a library that is loaded already.

use std::{
    error::Error,
    path::{Path, PathBuf},
};

use ort::{
    ep::{CUDA, ExecutionProvider, TensorRT, cuda::CUDNN_DYLIBS},
    util::preload_dylib,
    value::Tensor,
};

use super::problem::Problem;
use crate::{
    export::graph::{DType, Dim, GraphBuilder},
    runtime::{
        error::RuntimeError,
        execution::Execution,
        library::{self, LIBRARY_VARIABLE},
        options::SessionOptions,
        session::create_in_memory,
    },
};

/// The driver's own library.
const DRIVER: &str = "libcuda.so.1";
/// Version of the kernel module.
const DRIVER_VERSION: &str = "/proc/driver/nvidia/version";
/// The oldest driver that runs CUDA 13.
const OLDEST_DRIVER: u32 = 580;
/// Libraries that ONNX Runtime's CUDA provider is linked with, and cuDNN, which it needs for reductions; dependencies come
/// first.
const CUDA_LIBRARIES: [&str; 5] =
    ["libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudnn.so.9"];
/// Libraries that the provider loads on demand. (So are the parts of cuDNN, which need the driver.)
const OPTIONAL_LIBRARIES: [&str; 3] = ["libnvJitLink.so.13", "libnvrtc.so.13", "libcufft.so.12"];
/// Libraries that the TensorRT provider is linked with.
const TENSORRT_LIBRARIES: [&str; 2] = ["libnvinfer.so.10", "libnvonnxparser.so.10"];
/// Folders of libraries, relative to ONNX Runtime's: those of `make onnxruntime-gpu` and of site-packages. In each, every
/// `<package>/lib` is searched.
const PIP_FOLDERS: [&str; 2] = ["../nvidia", "../../nvidia"];

/// Returns whether ONNX Runtime was built with CUDA.
pub(super) fn is_cuda_build() -> bool {
    CUDA::is_available().unwrap_or(false)
}

/// Checks everything; the last step is skipped if anything before it is missing.
///
/// # Errors
/// All problems that were found.
pub(super) fn check(device: u32, tensorrt: bool) -> Result<(), Vec<Problem>> {
    let target = if tensorrt { "make onnxruntime-gpu TENSORRT=1" } else { "make onnxruntime-gpu" };
    let built = is_cuda_build() && (!tensorrt || TensorRT::is_available().unwrap_or(false));
    if !built {
        return Err(std::iter::once(cpu_build(target)).chain(check_driver().err()).collect());
    }
    let mut problems: Vec<Problem> = check_driver().err().into_iter().collect();
    let folders = library_folders();
    problems.extend(missing_libraries("NVIDIA's libraries", &load_all(&CUDA_LIBRARIES, &folders), target));
    // Whether these are missing shows when an operator needs them.
    let optional: Vec<&str> = OPTIONAL_LIBRARIES.iter().chain(CUDNN_DYLIBS).copied().collect();
    let _ = load_all(&optional, &folders);
    if tensorrt {
        problems.extend(missing_libraries(
            "TensorRT's libraries",
            &load_all(&TENSORRT_LIBRARIES, &folders),
            target,
        ));
    }
    if problems.is_empty() { run_trial_graph(device).map_err(|p| vec![p]) } else { Err(problems) }
}

/// Returns the version of NVIDIA's driver, if there is one: `580.95.05`.
pub(crate) fn driver_version() -> Option<String> {
    parse_driver(&std::fs::read_to_string(DRIVER_VERSION).ok()?)
}

/// Parses `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  ...` or `... Open Kernel Module for x86_64  580.95.05  ...`.
fn parse_driver(text: &str) -> Option<String> {
    let number = |word: &&str| {
        word.contains('.')
            && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    text.lines().next()?.split_whitespace().find(number).map(str::to_owned)
}

/// Returns the problem of an ONNX Runtime without CUDA.
fn cpu_build(target: &str) -> Problem {
    let path = library::loaded();
    let path = path.canonicalize().unwrap_or(path);
    let version = library::version(&path).map_or(String::new(), |version| format!(" {version}"));
    Problem::new(
        format!("the loaded ONNX Runtime{version}, {}, is a CPU build", path.display()),
        format!(
            "`{target}` installs one with CUDA; then set {LIBRARY_VARIABLE} to target/onnxruntime-gpu/lib/libonnxruntime.so."
        ),
    )
}

/// Checks NVIDIA's driver.
fn check_driver() -> Result<(), Problem> {
    let version = driver_version();
    if let Some(version) = &version
        && version.split('.').next().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n < OLDEST_DRIVER)
    {
        let missing =
            format!("NVIDIA's driver {version} is too old for CUDA 13, which needs {OLDEST_DRIVER} or newer");
        return Err(Problem::new(missing, "Install a newer driver."));
    }
    preload_dylib(DRIVER).map_err(|error| loader_message(&error)).map_err(|error| match version {
        Some(version) => Problem::new(
            format!("NVIDIA's driver {version} is installed, but its library cannot be loaded ({error})"),
            "In a container, start it with access to the GPU (docker run --gpus all).",
        ),
        None => Problem::new(
            format!("there is no NVIDIA driver ({error}; {DRIVER_VERSION} does not exist)"),
            format!(
                "Install the driver, {OLDEST_DRIVER} or newer, on a machine with an NVIDIA GPU; in a container, start it with access to the GPU (docker run --gpus all)."
            ),
        ),
    })
}

/// Returns the problem of missing libraries, if any.
fn missing_libraries(whose: &str, names: &[&str], target: &str) -> Option<Problem> {
    (!names.is_empty()).then(|| {
        Problem::new(
            format!("{whose} were not found: {}", names.join(", ")),
            format!(
                "`{target}` installs them next to ONNX Runtime (target/onnxruntime-gpu); or list their folders in LD_LIBRARY_PATH."
            ),
        )
    })
}

/// Loads libraries, from the folders first; returns those that cannot be loaded.
fn load_all<'a>(names: &[&'a str], folders: &[PathBuf]) -> Vec<&'a str> {
    let loads = |name: &str| {
        let paths = folders.iter().map(|folder| folder.join(name)).filter(|path| path.exists());
        paths.chain([PathBuf::from(name)]).any(|path| match preload_dylib(&path) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(library = %path.display(), error = loader_message(&error), "library does not load");
                false
            }
        })
    };
    names.iter().copied().filter(|name| !loads(name)).collect()
}

/// Returns the dynamic loader's message, which is the source of the error.
fn loader_message(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Returns the folders of NVIDIA's libraries next to ONNX Runtime.
fn library_folders() -> Vec<PathBuf> {
    let loaded = library::loaded();
    let Some(base) = loaded.parent().filter(|dir| !dir.as_os_str().is_empty()) else { return Vec::new() };
    PIP_FOLDERS.iter().flat_map(|folder| package_folders(&base.join(folder))).collect()
}

/// Returns `<dir>/<package>/lib` of every package, sorted.
fn package_folders(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path().join("lib")).filter(|lib| lib.is_dir()).collect();
    found.sort();
    found
}

/// Runs a graph of one node on the GPU.
fn run_trial_graph(device: u32) -> Result<(), Problem> {
    let run = || -> Result<f32, String> {
        let mut g = GraphBuilder::new("trial");
        let shape = [Dim::Fixed(1)];
        let x = g.input("x", DType::F32, &shape);
        let y = g.declare_output("y", DType::F32, &shape);
        g.op_into("Add", &[&x, &x], &y, &[]);
        let options = SessionOptions { execution: Execution::Cuda { device }, ..SessionOptions::on_cpu(1) };
        let mut session = create_in_memory("trial", g, &options).map_err(|e| match e {
            RuntimeError::Built { source, .. } => source.to_string(),
            other => other.to_string(),
        })?;
        let x = Tensor::from_array(([1_usize], vec![21.0_f32])).map_err(|e| e.to_string())?;
        let outputs = session.run(ort::inputs!["x" => x]).map_err(|e| e.to_string())?;
        outputs["y"].try_extract_tensor::<f32>().map(|(_, y)| y[0]).map_err(|e| e.to_string())
    };
    let failed = |what: String| {
        Problem::new(
            format!("a trial graph fails on GPU {device}: {what}"),
            "`nvidia-smi` lists the available GPUs; --device N selects one.",
        )
    };
    match run() {
        Ok(sum) if (sum - 42.0).abs() < f32::EPSILON => Ok(()),
        Ok(sum) => Err(failed(format!("21 + 21 = {sum}"))),
        Err(what) => Err(failed(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_versions_are_parsed() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 10:11:16 UTC 2025\nGCC version: gcc 12.2.0\n";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n";
        assert_eq!(parse_driver(closed).as_deref(), Some("580.95.05"));
        assert_eq!(parse_driver(open).as_deref(), Some("575.57.08"));
        assert_eq!(parse_driver("no version here"), None);
    }

    /// On any machine: no driver, no such GPU, or an ONNX Runtime without CUDA.
    #[test]
    fn missing_gpu_is_an_error() {
        library::load_library().expect("ONNX Runtime");
        let problem = run_trial_graph(1023).expect_err("no such GPU");
        println!("{}", problem.missing);
        assert!(problem.missing.contains("on GPU 1023: ") && problem.remedy.contains("nvidia-smi"));
    }

    #[test]
    fn libraries_are_searched_in_every_package() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for package in ["cudnn", "cu13"] {
            std::fs::create_dir_all(dir.path().join(package).join("lib")).expect("folder");
        }
        std::fs::create_dir(dir.path().join("empty")).expect("folder");
        let folders = package_folders(dir.path());
        assert_eq!(folders, ["cu13", "cudnn"].map(|p| dir.path().join(p).join("lib")));
        // A file of the right name that is not a library does not load.
        std::fs::write(folders[0].join("libnvinfer.so.10"), "text").expect("written");
        assert_eq!(load_all(&["libnvinfer.so.10", "libc.so.6"], &folders), ["libnvinfer.so.10"]);
        let problem = missing_libraries("TensorRT's libraries", &["libnvinfer.so.10"], "make x TENSORRT=1")
            .expect("one");
        assert!(problem.missing.contains("libnvinfer.so.10") && problem.remedy.contains("TENSORRT=1"));
        assert_eq!(missing_libraries("NVIDIA's libraries", &[], "make x"), None);
    }
}
