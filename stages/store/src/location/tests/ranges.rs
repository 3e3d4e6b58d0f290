//! Listings in ranges of keys, over a store whose pages take time and are counted.

use std::{
    collections::BTreeSet,
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Poll, Waker},
};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};

use crate::{
    Location, StoreError, StoreKind,
    location::ranges::{RangeError, RangeListing},
};

const PAGE: usize = 1000;

/// How the store departs from S3.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// One request in seven fails.
    Transient,
    /// Every listing begins with the first key.
    IgnoresOffset,
    /// Pages are not in the order of keys.
    Unordered,
}

/// A clock on which every page takes one tick.
#[derive(Debug, Default)]
struct Clock {
    ticks: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

impl Clock {
    async fn page(&self) {
        let due = self.ticks.load(SeqCst) + 1;
        poll_fn(|context| {
            if self.ticks.load(SeqCst) >= due {
                return Poll::Ready(());
            }
            self.waiting.lock().expect("one thread").push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends all pages that are waited for; returns whether there was one.
    fn tick(&self) -> bool {
        let waiting = std::mem::take(&mut *self.waiting.lock().expect("one thread"));
        self.ticks.fetch_add(usize::from(!waiting.is_empty()), SeqCst);
        waiting.iter().for_each(Waker::wake_by_ref);
        !waiting.is_empty()
    }
}

/// A store that lists as S3 does.
#[derive(Clone, Debug)]
struct Paged {
    keys: Arc<BTreeSet<String>>,
    fault: Fault,
    clock: Arc<Clock>,
    requests: Arc<AtomicUsize>,
    in_flight: Arc<AtomicUsize>,
    max_in_flight: Arc<AtomicUsize>,
}

impl Paged {
    fn new(keys: impl IntoIterator<Item = String>, fault: Fault) -> Self {
        let keys = Arc::new(keys.into_iter().collect());
        let [requests, in_flight, max_in_flight] = [(); 3].map(|()| Arc::default());
        Self { keys, fault, clock: Arc::default(), requests, in_flight, max_in_flight }
    }

    /// Waits for a listing; the clock goes on whenever only pages are waited for.
    async fn drive<F: Future>(&self, listing: F) -> F::Output {
        let mut listing = pin!(listing);
        poll_fn(|context| {
            loop {
                let polled = listing.as_mut().poll(context);
                if polled.is_ready() || !self.clock.tick() {
                    return polled;
                }
            }
        })
        .await
    }

    fn location(&self, folder: &str) -> Location {
        let (store, path) = (Arc::new(self.clone()), Path::parse(folder).expect("a path"));
        Location { store, path, kind: StoreKind::Bucket, base: "s3://bucket".into() }
    }

    async fn page(self, prefix: String, after: Option<String>) -> Result<(Vec<ObjectMeta>, Option<String>)> {
        let number = self.requests.fetch_add(1, SeqCst);
        self.max_in_flight.fetch_max(self.in_flight.fetch_add(1, SeqCst) + 1, SeqCst);
        self.clock.page().await;
        self.in_flight.fetch_sub(1, SeqCst);
        if self.fault == Fault::Transient && number % 7 == 6 {
            let source = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            return Err(Error::Generic { store: "test", source: source.into() });
        }
        let begin = after.filter(|after| *after >= prefix).unwrap_or_else(|| prefix.clone());
        let below = self.keys.range(begin.clone()..).filter(|key| **key != begin);
        let mut page: Vec<String> =
            below.take_while(|key| key.starts_with(&prefix)).take(PAGE + 1).cloned().collect();
        let has_more = page.len() > PAGE;
        page.truncate(PAGE);
        let next = page.last().cloned().filter(|_| has_more);
        if self.fault == Fault::Unordered {
            page.reverse();
        }
        let metas = page.iter().map(|key| ObjectMeta {
            location: Path::parse(key).expect("a path"),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: key.len() as u64,
            e_tag: None,
            version: None,
        });
        Ok((metas.collect(), next))
    }

    fn pages(&self, prefix: Option<&Path>, after: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.filter(|path| !path.as_ref().is_empty()));
        let prefix = prefix.map_or(String::new(), |path| format!("{path}/"));
        let after = after.map(Path::to_string).filter(|_| self.fault != Fault::IgnoresOffset);
        let pages = stream::try_unfold(Some(after), move |token| {
            let (store, prefix) = (store.clone(), prefix.clone());
            async move {
                let Some(after) = token else { return Ok(None) };
                let (metas, next) = store.page(prefix, after).await?;
                Ok::<_, Error>(Some((stream::iter(metas.into_iter().map(Ok)), next.map(Some))))
            }
        });
        futures::TryStreamExt::try_flatten(pages).boxed()
    }
}

impl fmt::Display for Paged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paged")
    }
}

#[async_trait]
impl ObjectStore for Paged {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(Error::NotImplemented { operation: "put".into(), implementer: "Paged".into() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "put".into(), implementer: "Paged".into() })
    }

    async fn get_opts(&self, _: &Path, _: GetOptions) -> Result<GetResult> {
        Err(Error::NotImplemented { operation: "get".into(), implementer: "Paged".into() })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        paths
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotImplemented { operation: "list".into(), implementer: "Paged".into() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: "Paged".into() })
    }
}

fn hash(n: usize) -> String {
    recaption_schemas::sha256_hex(n.to_string().as_bytes())[..16].to_owned()
}

/// Sets of many keys as they occur, by what they are.
fn key_sets(count: usize) -> Vec<(&'static str, Vec<String>)> {
    let make = |name: fn(usize) -> String| (0..count).map(name).collect::<Vec<_>>();
    vec![
        ("padded numbers", make(|n| format!("{n:06}.tar"))),
        ("records", make(|n| format!("{n:06}-{}.{}-{}.json", hash(n), hash(n + 1), hash(7)))),
        ("parts", make(|n| format!("part-{:05}-{}-{}.parquet", n % 100_000, hash(n), hash(n + 1)))),
        ("hashes", make(hash)),
        ("numbers", make(|n| format!("img{n}.jpg"))),
        ("one long prefix", make(|n| format!("laion/2b-en/data/train-of-many-{n:08}-of-99999999.tar"))),
        ("folders by date", make(|n| format!("{}/{:02}/{:02}/{}", 2020 + n % 5, n % 12, n % 28, hash(n)))),
        ("two folders", make(|n| format!("{}/{:07}.tar", if n % 10 == 0 { "val" } else { "train" }, n))),
        ("mixed case", make(|n| format!("{}{n:x}", if n % 3 == 0 { "ABC-" } else { "abc_" }))),
        ("squares", make(|n| format!("{:012}", n * n))),
        ("one dense cluster", make(|n| if n % 100 == 0 { hash(n) } else { format!("7777-{n:09}") })),
        (
            "prefixes of each other",
            make(|n| "ab".repeat(1 + n % 400) + &"/x".repeat(n / 400 % 90) + &hash(n)),
        ),
        (
            "scripts",
            make(|n| ["é", "猫", "я", "🦀", "z"][n % 5].repeat(1 + n % 3) + &format!("{:05}", n / 5)),
        ),
        ("percent and dots", make(|n| format!("%2F.{}.%{:04}..", n % 7, n))),
        ("deep common prefix", make(|n| "x".repeat(200) + &format!("{n:06}"))),
    ]
}

async fn listed(store: &Paged, folder: &str) -> Vec<String> {
    let location = store.location(folder);
    let keys = store.drive(location.list_as(|meta| Some(meta.location.to_string()))).await;
    keys.expect("a listing")
}

/// Lists keys through ranges and compares them with the set; returns pages, requests, and pages one after another.
async fn list_all(keys: &[String], fault: Fault) -> (usize, usize, usize) {
    let folder = "data/in";
    let other = ["data/in", "data/in!", "data/in.tar", "data/inner/000001", "data", "zzz"].map(str::to_owned);
    let all = keys.iter().map(|key| format!("{folder}/{key}"));
    let store = Paged::new(all.chain(other), fault);
    let found = listed(&store, folder).await;
    let wanted: BTreeSet<String> = keys.iter().map(|key| format!("{folder}/{key}")).collect();
    assert!(found.iter().eq(&wanted), "{} listed, {} exist", found.len(), wanted.len());
    assert!(store.max_in_flight.load(SeqCst) <= 16, "requests at the same time");
    (wanted.len().div_ceil(PAGE).max(1), store.requests.load(SeqCst), store.clock.ticks.load(SeqCst))
}

#[tokio::test]
async fn many_keys_are_listed_completely_in_order_and_fast() {
    let mut table = String::new();
    for (name, keys) in key_sets(100_000) {
        let (pages, requests, rounds) = list_all(&keys, Fault::None).await;
        table += &format!("{name:<24} {pages:>4} pages {requests:>4} requests {rounds:>4} rounds\n");
        assert!(requests <= 2 * pages && rounds <= pages + 4, "{table}");
        // Where keys crowd under few beginnings, it takes longer to find them.
        let is_crowded = ["one dense cluster", "prefixes of each other", "scripts"].contains(&name);
        assert!(is_crowded || rounds * 4 < pages, "{table}");
    }
    println!("{table}");
}

#[tokio::test]
async fn small_folders_cost_as_many_requests_as_pages() {
    for count in [0, 1, 7, 999, 1000, 1001, 1999, 2000] {
        for (name, keys) in key_sets(count) {
            let (pages, requests, _) = list_all(&keys, Fault::None).await;
            assert_eq!(requests, pages, "{count} keys, {name}");
        }
    }
}

#[tokio::test]
async fn random_sets_of_awkward_keys_are_listed_completely() {
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..40 {
        let alphabet: Vec<char> = match round % 4 {
            0 => "01".chars().collect(),
            1 => "abz/A9-.".chars().collect(),
            2 => "é猫🦀/\u{e000}\u{d7ff}\u{fffd}".chars().collect(),
            _ => ('!'..='~').collect(),
        };
        let (count, longest) = (random.usize(2_000..9_000), random.usize(1..40));
        let keys: BTreeSet<String> = (0..count)
            .map(|_| {
                (0..random.usize(0..=longest)).map(|_| alphabet[random.usize(..alphabet.len())]).collect()
            })
            .filter(|key: &String| Path::parse(key).is_ok_and(|path| path.as_ref() == key && !key.is_empty()))
            .collect();
        list_all(&keys.into_iter().collect::<Vec<_>>(), Fault::None).await;
    }
}

#[tokio::test]
async fn broken_ranges_go_on_after_their_last_key() {
    let keys: Vec<String> = (0..20_000).map(hash).collect();
    let store = Paged::new(keys.clone(), Fault::Transient);
    // Fails more often than there are further attempts, unless pages that succeed restore them.
    let location = store.location("");
    let found = store.drive(location.list_as(|meta| Some(meta.location.to_string()))).await;
    assert!(found.expect("a listing").iter().eq(&keys.into_iter().collect::<BTreeSet<_>>()));
    assert!(store.requests.load(SeqCst) < 60, "no page is listed twice: {:?}", store.requests);
}

#[tokio::test]
async fn stores_without_order_are_listed_page_by_page() {
    let keys: Vec<String> = (0..20_000).map(|n| format!("in/{}", hash(n))).collect();
    for fault in [Fault::IgnoresOffset, Fault::Unordered] {
        let store = Paged::new(keys.clone(), fault);
        let ranges = store.drive(RangeListing::new(&store.location("in"), usize::MAX, Some).run()).await;
        assert!(matches!(ranges, Err(RangeError::Unordered)), "{fault:?} is noticed");
        let found: BTreeSet<String> = listed(&store, "in").await.into_iter().collect();
        assert!(found.iter().eq(&keys.iter().cloned().collect::<BTreeSet<_>>()), "{fault:?}");
    }
}

#[tokio::test]
async fn ranges_end_at_the_limit() {
    let store = Paged::new((0..9_000).map(hash), Fault::None);
    let ranges = store.drive(RangeListing::new(&store.location(""), 8_000, Some).run()).await;
    let Err(RangeError::Store(source)) = ranges else { panic!("more than 8,000 objects") };
    let error = StoreError::Store { url: "s3://bucket".into(), source }.to_string();
    assert!(error.contains("more than 8000 objects"), "{error}");
}
