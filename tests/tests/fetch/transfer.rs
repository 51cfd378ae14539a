//! Cuts, stalls, lies about length, busy servers, redirects, proxies.

use kflash::obtain::fetch::Proxies;
use kflash::obtain::provenance::Origin;

use super::farm::{Host, IMAGE, INDEX, Key, SIGNATURE, VERSION, entry, firmware, index, publish};
use super::server::{NAME, Proxy, Reply, Server};

/// A server with an index of one image, which still lacks the image itself.
fn published() -> (Server, Key, Vec<u8>) {
    let (server, key, image) = (Server::https(), Key::new(), firmware());
    publish(&server, &key, &index(1, &[entry(&image)]));
    (server, key, image)
}

/// From which byte on the image was asked for, each time.
fn asked(server: &Server) -> Vec<Option<usize>> {
    let requests = server.requests();
    requests.iter().filter(|request| request.path == IMAGE).map(|request| request.from).collect()
}

#[test]
fn an_image_is_fetched_once_with_its_provenance() {
    let (server, key, image) = published();
    server.reply(IMAGE, Reply::file(image.as_slice()));
    let host = Host::of(&server, &key);
    let fetched = host.fetch().unwrap();
    assert!(!fetched.cached);
    assert_eq!((fetched.entry.bytes, fetched.route.as_str()), (image, "katapult-usb"));
    let provenance = fetched.entry.provenance;
    assert_eq!(provenance.version, VERSION);
    let Origin::Fetched(from) = &provenance.origin else { panic!("{provenance:?}") };
    assert_eq!(from.url, server.url(IMAGE));
    assert_eq!(from.key_id.as_ref(), Some(&key.parsed().id));
    let again = host.fetch().unwrap();
    assert!(again.cached);
    assert_eq!(asked(&server), [None]);
    assert_eq!((host.warnings(), host.clock.now_in_tenths()), (Vec::new(), 0));
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_was() {
    let (server, key, image) = published();
    server
        .reply(IMAGE, Reply::file(image.as_slice()).cut_at(20_000))
        .reply(IMAGE, Reply::file(image.as_slice()).cut_at(10_000))
        .reply(IMAGE, Reply::file(image.as_slice()));
    let host = Host::of(&server, &key);
    assert_eq!(host.fetch().unwrap().entry.bytes, image);
    let asked = asked(&server);
    assert_eq!(asked.len(), 3, "{asked:?}");
    let (first, second) = (asked[1].unwrap(), asked[2].unwrap());
    assert!((1..=20_000).contains(&first) && (first + 1..=first + 10_000).contains(&second), "{asked:?}");
    assert_eq!(host.warnings().len(), 2);
}

#[test]
fn a_run_that_ended_left_what_had_come_to_the_next() {
    let (server, key, image) = published();
    server.reply(IMAGE, Reply::file(image.as_slice()).cut_at(30_000)).reply(IMAGE, Reply::status(404));
    let host = Host::of(&server, &key);
    let (message, code) = host.refused();
    assert_eq!(message, format!("cannot fetch {}: the server answers 404 Not Found", server.url(IMAGE)));
    assert_eq!(code, 8);
    server.forget(IMAGE).reply(IMAGE, Reply::file(image.as_slice()));
    assert_eq!(host.fetch().unwrap().entry.bytes, image);
    assert!(asked(&server).last().unwrap().unwrap() > 0);
    assert!(host.files().iter().all(|file| !file.contains("downloads/")), "{:?}", host.files());
}

#[test]
fn a_server_without_ranges_is_asked_for_all_of_it_again() {
    let (server, key, image) = published();
    server
        .reply(IMAGE, Reply::file(image.as_slice()).cut_at(20_000))
        .reply(IMAGE, Reply::file(image.as_slice()).without_ranges());
    assert_eq!(Host::of(&server, &key).fetch().unwrap().entry.bytes, image);
    assert_eq!(asked(&server).len(), 2);
}

#[test]
fn a_file_that_changed_meanwhile_is_not_patched_together() {
    let (server, key, image) = published();
    server
        .reply(IMAGE, Reply::file(vec![1; image.len()]).cut_at(20_000).header("ETag", "\"other\""))
        .reply(IMAGE, Reply::file(image.as_slice()));
    assert_eq!(Host::of(&server, &key).fetch().unwrap().entry.bytes, image);
    // The same, from a server that says nothing of its change.
    let (server, key, image) = published();
    server
        .reply(IMAGE, Reply::file(vec![1; image.len()]).cut_at(20_000))
        .reply(IMAGE, Reply::file(image.as_slice()))
        .reply(IMAGE, Reply::file(image.as_slice()));
    let host = Host::of(&server, &key);
    assert_eq!(host.fetch().unwrap().entry.bytes, image);
    assert!(host.warnings().iter().any(|text| text.contains("its parts do not fit together")), "{:?}", host.warnings());
}

#[test]
fn wrong_answers_to_a_range_are_seen() {
    for wrong in ["bytes 5-9/10", "bytes 0-43/44", "items 1-2/3", "bytes */44516", ""] {
        let (server, key, image) = published();
        server
            .reply(IMAGE, Reply::file(image.as_slice()).cut_at(20_000))
            .reply(IMAGE, Reply::status(206).header("Content-Range", wrong))
            .reply(IMAGE, Reply::file(image.as_slice()));
        assert_eq!(Host::of(&server, &key).fetch().unwrap().entry.bytes, image, "{wrong}");
        assert_eq!(asked(&server).last(), Some(&None), "{wrong}");
    }
}

#[test]
fn a_server_that_stalls_is_asked_again() {
    let (server, key, image) = published();
    server.reply(IMAGE, Reply::file(image.as_slice()).stall_at(20_000)).reply(IMAGE, Reply::file(image.as_slice()));
    let host = Host::of(&server, &key);
    assert_eq!(host.fetch().unwrap().entry.bytes, image);
    assert!(asked(&server)[1].is_some());
    assert!(host.warnings()[0].contains("it took too long"), "{:?}", host.warnings());
}

#[test]
fn a_server_that_lies_about_the_length_is_found_out() {
    let (server, key, image) = published();
    server
        .reply(IMAGE, Reply::file(&image[..1000]).of_length(image.len() as u64))
        .reply(IMAGE, Reply::file(image.as_slice()));
    assert_eq!(Host::of(&server, &key).fetch().unwrap().entry.bytes, image);
    // Shorter than the index says, and honest about it: another file.
    server.forget(IMAGE).reply(IMAGE, Reply::file(&image[..1000]));
    let (message, code) = Host::of(&server, &key).refused();
    assert!(message.ends_with(&format!("the server has 1000 bytes, the index says {}", image.len())), "{message}");
    assert_eq!(code, 3);
    // Shorter without saying so.
    server.forget(IMAGE).reply(IMAGE, Reply::file(&image[..1000]).without_ranges().of_unsaid_length());
    let (message, code) = Host::of(&server, &key).refused();
    assert!(message.ends_with(&format!("it ended after 1000 of {} bytes", image.len())), "{message}");
    assert_eq!(code, 8);
}

#[test]
fn no_more_is_read_than_the_index_says() {
    let (server, key, image) = published();
    let more = image.repeat(3);
    server.reply(IMAGE, Reply::file(more.as_slice()));
    let host = Host::of(&server, &key);
    assert_eq!(host.refused().1, 3);
    server.forget(IMAGE).reply(IMAGE, Reply::file(more.as_slice()).of_unsaid_length());
    let (message, code) = host.refused();
    assert!(message.ends_with(&format!("it has more than the {} bytes that the index says", image.len())), "{message}");
    assert_eq!(code, 3);
    assert_eq!(asked(&server).len(), 2, "neither is tried again");
    assert!(host.files().iter().all(|file| !file.contains("downloads/")), "{:?}", host.files());
}

#[test]
fn an_index_without_end_is_not_read_to_its_end() {
    for endless in [Reply::file(vec![b' '; 5 << 20]), Reply::file(vec![b' '; 5 << 20]).of_unsaid_length()] {
        let (server, key) = (Server::https(), Key::new());
        server.reply(INDEX, endless);
        let (message, code) = Host::of(&server, &key).refused();
        assert!(message.ends_with("it has more than 4194304 bytes"), "{message}");
        assert_eq!((code, server.requests().len()), (8, 1));
    }
}

#[test]
fn a_busy_server_is_asked_again_as_it_says() {
    let (server, key, image) = published();
    server
        .reply(IMAGE, Reply::status(503))
        .reply(IMAGE, Reply::status(429).header("Retry-After", "7"))
        .reply(IMAGE, Reply::status(500).header("Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT"))
        .reply(IMAGE, Reply::file(image.as_slice()));
    let host = Host::of(&server, &key);
    assert_eq!(host.fetch().unwrap().entry.bytes, image);
    // Half a second, what the server asks for, four times the first.
    assert_eq!(host.clock.now_in_tenths(), 5 + 70 + 20);
}

#[test]
fn what_stays_away_is_given_up() {
    let (server, key, _) = published();
    server.reply(IMAGE, Reply::status(503));
    let host = Host::of(&server, &key);
    let (message, code) = host.refused();
    assert_eq!(message, format!("cannot fetch {}: the server answers 503 Service Unavailable", server.url(IMAGE)));
    assert_eq!((code, asked(&server).len()), (8, 5));
    assert_eq!(host.clock.now_in_tenths(), 5 + 10 + 20 + 40);
    server.forget(IMAGE).reply(IMAGE, Reply::status(503).header("Retry-After", "3600"));
    let (message, _) = host.refused();
    assert!(message.ends_with("and asks to be left alone for 3600 s"), "{message}");
    assert_eq!(asked(&server).len(), 6);
    server.forget(IMAGE).reply(IMAGE, Reply::status(403));
    assert_eq!(host.refused().1, 8);
    assert_eq!(asked(&server).len(), 7, "a refusal is no accident");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let (server, key, _) = published();
    let host = Host::of(&server, &key);
    let url = server.url(INDEX);
    drop(server);
    let (message, code) = host.refused();
    assert!(message.starts_with(&format!("cannot fetch {url}: Connection refused")), "{message}");
    assert_eq!(code, 8);
}

#[test]
fn a_stop_is_heard_between_attempts() {
    let (server, key, _) = published();
    server.reply(IMAGE, Reply::status(503));
    let host = Host::of(&server, &key);
    host.interrupt.request();
    assert_eq!(host.refused(), ("stopped while fetching".to_owned(), 14));
    assert_eq!(server.requests(), []);
}

#[test]
fn redirects_are_followed_within_tls() {
    let (server, key, image) = published();
    server
        .reply(IMAGE, Reply::redirect("/elsewhere?a=b"))
        .reply("/elsewhere?a=b", Reply::redirect(&server.url("/there")))
        .reply("/there", Reply::file(image.as_slice()));
    assert_eq!(Host::of(&server, &key).fetch().unwrap().entry.bytes, image);

    let plain = Server::plain();
    plain.reply("/there", Reply::file(image.as_slice()));
    for target in [plain.url("/there").as_str(), "http://example.org/", "file:///etc/passwd", ""] {
        server.forget(IMAGE).reply(IMAGE, Reply::redirect(target));
        let (message, code) = Host::of(&server, &key).refused();
        assert!(message.starts_with(&format!("cannot fetch {}: redirected to ", server.url(IMAGE))), "{message}");
        assert_eq!(code, 8, "{target}");
    }
    assert_eq!(plain.requests(), [], "what leaves TLS is not even asked for");

    server.forget(IMAGE).reply(IMAGE, Reply::redirect(IMAGE));
    let (message, _) = Host::of(&server, &key).refused();
    assert!(message.ends_with("more than 5 redirects"), "{message}");
}

#[test]
fn plain_http_is_for_this_machine() {
    let (server, key, image) = (Server::plain(), Key::new(), firmware());
    publish(&server, &key, &index(1, &[entry(&image)]));
    server.reply(IMAGE, Reply::file(image.as_slice()));
    assert_eq!(Host::of(&server, &key).fetch().unwrap().entry.bytes, image);
}

#[test]
fn files_are_fetched_from_a_directory() {
    let (key, image, dir) = (Key::new(), firmware(), tempfile::tempdir().unwrap());
    let of = index(1, &[entry(&image)]);
    std::fs::create_dir(dir.path().join("images")).unwrap();
    std::fs::write(dir.path().join("images/klipper.bin"), &image).unwrap();
    std::fs::write(dir.path().join("index.json"), &of).unwrap();
    let path = dir.path().join("index.json").display().to_string();
    let host = Host::new(None, Proxies::default(), &format!("file://{path}"), &key);
    assert_eq!(host.refused(), (format!("{path} is not signed: there is no {path}.minisig"), 3));
    std::fs::write(dir.path().join("index.json.minisig"), key.sign(&of)).unwrap();
    assert_eq!(host.fetch().unwrap().entry.bytes, image);
    std::fs::remove_file(dir.path().join("index.json")).unwrap();
    assert_eq!(host.index().unwrap_err().exit().code(), 8);
}

#[test]
fn servers_are_believed_by_their_certificate() {
    let (server, key, _) = published();
    let stranger = Server::https();
    let host = Host::new(Some(stranger.ca.as_bytes()), Proxies::default(), &server.url(INDEX), &key);
    let (message, code) = host.refused();
    assert!(message.contains("invalid peer certificate"), "{message}");
    assert_eq!((code, host.clock.now_in_tenths()), (8, 0), "not asked again");
    let host = Host::new(None, Proxies::default(), &server.url(INDEX), &key);
    assert!(host.refused().0.contains("invalid peer certificate"));
    // Something that speaks no TLS at all.
    let plain = Server::plain();
    let url = plain.url(INDEX).replace("http:", "https:");
    assert_eq!(Host::new(None, Proxies::default(), &url, &key).refused().1, 8);
    assert_eq!(server.requests(), []);
}

#[test]
fn a_proxy_is_asked_to_connect() {
    let (server, key, image) = published();
    server.reply(IMAGE, Reply::file(image.as_slice()));
    let proxy = Proxy::to(&server);
    let proxies = Proxies::new(Some(&proxy.url()), None, Some("localhost")).unwrap();
    let index = format!("https://{NAME}{INDEX}");
    let host = Host::new(Some(server.ca.as_bytes()), proxies, &index, &key);
    assert_eq!(host.fetch().unwrap().entry.bytes, image);
    assert!(proxy.asked().iter().all(|line| line == &format!("CONNECT {NAME}:443 HTTP/1.1")), "{:?}", proxy.asked());
    assert_eq!(server.requests().iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), [INDEX, SIGNATURE, IMAGE]);
}
