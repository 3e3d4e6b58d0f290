//! Finds and loads ONNX Runtime's shared library, once per process.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use ort::environment::Environment;

use super::error::RuntimeError;

/// Environment variable with the path of the library file.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

const FILE_NAME: &str = "libonnxruntime.so";

static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);
static LOADED: OnceLock<PathBuf> = OnceLock::new();

/// Returns the process's ONNX Runtime environment; loads the library on the first call.
///
/// The library is `ORT_DYLIB_PATH`; without that variable it is searched next to the program, in `../lib` and
/// `../onnxruntime/lib` relative to it, and where the system's loader searches.
///
/// # Errors
/// [`RuntimeError::Library`] with the paths tried.
pub fn load_library() -> Result<Environment, RuntimeError> {
    let mut loaded = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*loaded {
        return Ok(environment.clone());
    }
    let candidates = candidates();
    let mut errors = Vec::new();
    for path in &candidates {
        // A bare name is searched by the system's loader.
        if path.components().count() > 1 && !path.exists() {
            continue;
        }
        match ort::init_from(path) {
            Ok(builder) => {
                let environment = builder
                    .with_name("recaption")
                    .with_telemetry(false)
                    .build()
                    .map_err(|e| failure(&candidates, &e.to_string()))?;
                // Its info messages are too detailed for ours.
                environment.set_log_level(ort::logging::LogLevel::Warning);
                tracing::debug!(library = %path.display(), "ONNX Runtime loaded");
                *loaded = Some(environment.clone());
                LOADED.get_or_init(|| path.clone());
                return Ok(environment);
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    // The first path with a file is more informative than the last without.
    Err(failure(&candidates, errors.first().map_or("no library found", String::as_str)))
}

/// Returns the path of the loaded file; a bare name if the system's loader found it.
pub(super) fn loaded() -> PathBuf {
    LOADED.get().cloned().unwrap_or_else(|| PathBuf::from(FILE_NAME))
}

/// Returns the version of the loaded library, from its file name.
pub(crate) fn loaded_version() -> Option<String> {
    let path = loaded();
    version(&path.canonicalize().unwrap_or(path))
}

/// Returns the version in a library's file name, `libonnxruntime.so.1.31.1`. (`ort` does not expose ONNX Runtime's own.)
pub(super) fn version(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix(FILE_NAME)?.strip_prefix('.').map(str::to_owned)
}

fn failure(candidates: &[PathBuf], what: &str) -> RuntimeError {
    let places: Vec<String> = candidates.iter().map(|p| p.display().to_string()).collect();
    RuntimeError::Library { what: what.to_owned(), places: places.join(", ") }
}

/// Returns the paths to try, in order.
fn candidates() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os(LIBRARY_VARIABLE).filter(|v| !v.is_empty()) {
        return vec![PathBuf::from(path)];
    }
    let mut places = Vec::new();
    if let Some(dir) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.push(dir.join(FILE_NAME));
        if let Some(parent) = dir.parent() {
            places.push(parent.join("lib").join(FILE_NAME));
            places.push(parent.join("onnxruntime").join("lib").join(FILE_NAME));
        }
    }
    places.push(PathBuf::from(FILE_NAME));
    places
}
