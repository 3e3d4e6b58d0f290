//! A place where shards and outputs lie: a folder, or a bucket of a server that this story started. The same variables that
//! the program gets make the client that looks at what it left.

use std::{fmt, fs, path::Path, str::FromStr, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures::TryStreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder, local::LocalFileSystem, path::Path as ObjectPath,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    gcs::Stub,
    model,
    output::{self, Rows},
    program::{Call, recaption},
    services::{Service, request},
};

/// The bucket's or container's name.
const NAME: &str = "shards";
/// azurite's only account, and its key, which are the same everywhere.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A folder or bucket.
pub(crate) struct Bucket {
    base: String,
    env: Vec<(&'static str, String)>,
    client: Arc<dyn ObjectStore>,
    runtime: Runtime,
    /// The server, where there is one.
    pub(crate) service: Option<Service>,
    /// The stub, where it is one.
    pub(crate) gcs: Option<Stub>,
    _folder: Option<TempDir>,
}

impl Bucket {
    /// A folder of this machine.
    pub(crate) fn local() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let client = LocalFileSystem::new_with_prefix(folder.path()).expect("a folder");
        let base = folder.path().display().to_string();
        Self { _folder: Some(folder), ..Self::new(base, Vec::new(), Arc::new(client)) }
    }

    /// S3 as moto has it.
    pub(crate) fn moto() -> Self {
        let service = Service::moto();
        let bucket = Self::s3(service.port());
        assert_eq!(request(service.port(), "PUT", &format!("/{NAME}"), &[]).ok(), Some(200), "a bucket");
        Self { service: Some(service), ..bucket }
    }

    /// S3 as s3s-fs has it: signatures are checked.
    pub(crate) fn s3s() -> Self {
        let service = Service::s3s("tests", "tests-secret");
        fs::create_dir(service.path("root").join(NAME)).expect("a bucket");
        let bucket = Self::s3(service.port());
        Self { service: Some(service), ..bucket }
    }

    /// The bucket of a server of S3 that someone else started.
    pub(crate) fn s3(port: u16) -> Self {
        let env = vec![
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
            ("AWS_ACCESS_KEY_ID", "tests".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "tests-secret".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ];
        let builder =
            env.iter().fold(AmazonS3Builder::new().with_bucket_name(NAME), |builder, (name, value)| {
                builder.with_config(key(name), value)
            });
        install_crypto();
        Self::new(format!("s3://{NAME}"), env, Arc::new(builder.build().expect("a client")))
    }

    /// Azure as azurite has it.
    pub(crate) fn azurite() -> Self {
        let service = Service::azurite();
        let env = vec![
            ("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY.to_owned()),
            ("AZURE_STORAGE_ENDPOINT", format!("http://127.0.0.1:{}/{AZURE_ACCOUNT}", service.port())),
            ("AZURE_ALLOW_HTTP", "true".to_owned()),
        ];
        make_container(service.port());
        let builder = MicrosoftAzureBuilder::new().with_container_name(NAME);
        let builder =
            env.iter().fold(builder, |builder, (name, value)| builder.with_config(key(name), value));
        install_crypto();
        let client = Arc::new(builder.build().expect("a client"));
        Self { service: Some(service), ..Self::new(format!("az://{NAME}"), env, client) }
    }

    /// Google Cloud Storage as the stub has it.
    pub(crate) fn gcs() -> Self {
        let stub = Stub::start();
        let account = serde_json::json!({
            "gcs_base_url": format!("http://127.0.0.1:{}", stub.port()),
            "disable_oauth": true,
            "client_email": "", "private_key": "", "private_key_id": "",
        });
        let env = vec![("GOOGLE_SERVICE_ACCOUNT_KEY", account.to_string())];
        let builder = GoogleCloudStorageBuilder::new().with_bucket_name(NAME);
        let builder =
            env.iter().fold(builder, |builder, (name, value)| builder.with_config(key(name), value));
        install_crypto();
        let client = Arc::new(builder.build().expect("a client"));
        Self { gcs: Some(stub), ..Self::new(format!("gs://{NAME}"), env, client) }
    }

    fn new(base: String, env: Vec<(&'static str, String)>, client: Arc<dyn ObjectStore>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        Self { base, env, client, runtime, service: None, gcs: None, _folder: None }
    }

    /// How the program calls a place in it.
    pub(crate) fn url(&self, key: &str) -> String {
        format!("{}/{key}", self.base)
    }

    /// `recaption run` with the bundled captioner over the shards in the folder `input`, into `output`, both in here.
    pub(crate) fn run(&self, input: &str, output: &str) -> Call {
        self.run_into(input, &self.url(output))
    }

    /// As [`Self::run`], into any output.
    pub(crate) fn run_into(&self, input: &str, output: &str) -> Call {
        self.command("run", input, output)
    }

    /// `recaption plan` of what [`Self::run_into`] runs.
    pub(crate) fn plan(&self, input: &str, output: &str) -> Call {
        self.command("plan", input, output)
    }

    /// As [`Self::run_into`], another command that is configured as a run.
    pub(crate) fn command(&self, name: &str, input: &str, output: &str) -> Call {
        let call = self.recaption().arg(name).arg("--model").arg(model());
        call.arg("--input").arg(format!("{}/", self.url(input))).arg("--output").arg(output)
    }

    /// The program with what it needs to reach this place.
    pub(crate) fn recaption(&self) -> Call {
        self.env.iter().fold(recaption(), |call, (name, value)| call.env(name, value))
    }

    /// Writes an object.
    pub(crate) fn put(&self, key: &str, bytes: Vec<u8>) {
        let path = ObjectPath::from(key);
        let put = self.client.put(&path, bytes.into());
        self.runtime.block_on(put).unwrap_or_else(|e| panic!("{key} cannot be written: {e}"));
    }

    /// Reads an object.
    pub(crate) fn get(&self, key: &str) -> Vec<u8> {
        let path = ObjectPath::from(key);
        let get = async { self.client.get(&path).await?.bytes().await };
        self.runtime.block_on(get).unwrap_or_else(|e| panic!("{key} cannot be read: {e}")).to_vec()
    }

    /// All keys below a folder, in order.
    pub(crate) fn list(&self, folder: &str) -> Vec<String> {
        let path = ObjectPath::from(folder);
        let listing = self.client.list(Some(&path)).map_ok(|meta| meta.location.to_string());
        let listed: object_store::Result<Vec<String>> = self.runtime.block_on(listing.try_collect());
        let mut keys = listed.unwrap_or_else(|e| panic!("{folder} cannot be listed: {e}"));
        keys.sort();
        keys
    }

    /// The commit records of an output.
    pub(crate) fn records(&self, output: &str) -> Vec<String> {
        self.list(&format!("{output}/_recaption/shards"))
    }

    /// Every row of an output, after all the checks of [`output::read`]. Shards go by their file's name: their URLs differ
    /// from store to store, and nothing else may.
    #[track_caller]
    pub(crate) fn rows(&self, output: &str) -> Rows {
        let copy = tempfile::tempdir().expect("a temporary folder");
        for key in self.list(output) {
            let name = key.strip_prefix(output).expect("below the output").trim_start_matches('/');
            let path = copy.path().join(name);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("folders can be made");
            fs::write(path, self.get(&key)).expect("files can be written");
        }
        let mut rows = output::read(copy.path());
        let file = |url: &str| Path::new(url).file_name().expect("a shard's name").display().to_string();
        rows.captions.iter_mut().for_each(|row| row.shard = file(&row.shard));
        rows.rejects.iter_mut().for_each(|row| row.shard = file(&row.shard));
        rows
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

/// An environment variable as object_store's own name of it.
fn key<K: FromStr<Err: fmt::Debug>>(name: &str) -> K {
    name.to_ascii_lowercase().parse().expect("a name that object_store knows")
}

/// TLS needs a provider of cryptography even where nothing is encrypted.
fn install_crypto() {
    // A later call finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// azurite signs everything, and object_store makes no containers.
fn make_container(port: u16) {
    let date = chrono::Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let version = "2021-08-06";
    let to_sign = format!(
        "PUT{}x-ms-date:{date}\nx-ms-version:{version}\n/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{NAME}\nrestype:container",
        "\n".repeat(12)
    );
    let secret = BASE64_STANDARD.decode(AZURE_KEY).expect("the key is Base64");
    let signature = BASE64_STANDARD.encode(hmac_sha256(&secret, to_sign.as_bytes()));
    let headers = [
        ("x-ms-date", date.as_str()),
        ("x-ms-version", version),
        ("Authorization", &format!("SharedKey {AZURE_ACCOUNT}:{signature}")),
    ];
    let made = request(port, "PUT", &format!("/{AZURE_ACCOUNT}/{NAME}?restype=container"), &headers);
    assert_eq!(made.ok(), Some(201), "a container");
}

/// RFC 2104.
fn hmac_sha256(secret: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..secret.len()].copy_from_slice(secret);
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5C)).chain_update(inner).finalize().to_vec()
}
