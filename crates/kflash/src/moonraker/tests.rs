#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::*;

/// Moonraker 0.11.0's answer while Klipper is in this state, shortened by what is passed over.
fn server(klippy_state: &str) -> (u16, String) {
    let connected = klippy_state != "disconnected";
    let body = format!(
        r#"{{"result":{{"klippy_connected":{connected},"klippy_state":"{klippy_state}","components":["secrets","template"],"failed_components":[],"warnings":[],"websocket_count":0,"moonraker_version":"0.11.0","missing_klippy_requirements":[],"api_version":[1,5,0],"api_version_string":"1.5.0"}}}}"#
    );
    (200, body)
}

/// Its answer to what is printed.
fn objects(state: &str, file: &str, idle: &str) -> (u16, String) {
    let body = format!(
        r#"{{"result":{{"eventtime":1.0,"status":{{"print_stats":{{"filename":"{file}","total_duration":61.2,"print_duration":50.1,"filament_used":12.0,"state":"{state}","message":"","info":{{"total_layer":null,"current_layer":null}}}},"virtual_sdcard":{{"file_path":"/x/benchy.gcode","progress":0.4273,"is_active":true,"file_position":4273,"file_size":10000}},"idle_timeout":{{"state":"{idle}","printing_time":0.0}}}}}}}}"#
    );
    (200, body)
}

fn info() -> (u16, String) {
    let body = r#"{"result":{"state":"ready","state_message":"Printer is ready","hostname":"voron","klipper_path":"/home/pi/klipper","python_path":"/home/pi/klippy-env/bin/python","process_id":77,"user_id":1000,"group_id":1000,"log_file":"/tmp/klippy.log","config_file":"/tmp/printer.cfg","software_version":"v0.12.0-85-gd785b396-dirty","cpu_info":"4 core"}}"#;
    (200, body.into())
}

/// Its error of this code.
fn error(code: u16, message: &str) -> (u16, String) {
    let traceback = r#"Traceback (most recent call last):\n\n  File \"/x/tornado/web.py\", line 1865, in _execute\n"#;
    (code, format!(r#"{{"error":{{"code":{code},"message":"{message}","traceback":"{traceback}"}}}}"#))
}

/// A server of one answer after another; what it is asked comes through the channel, request line and headers.
fn serve(answers: Vec<(u16, String)>) -> (Client, Receiver<String>) {
    serve_raw(answers.into_iter().map(|(status, body)| {
        format!("HTTP/1.1 {status} X\r\nServer: TornadoServer/6.5.8\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }).collect())
}

fn serve_raw(answers: Vec<Vec<u8>>) -> (Client, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (tell, asked) = channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = tell.send(head(&stream));
            // The client may hang up in the middle of it.
            let _ = stream.write_all(&answer);
        }
    });
    (client(url, Some("5ec4e7")), asked)
}

/// A request's lines, up to the empty one.
fn head(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    lines.take_while(|line| !line.is_empty()).map(|line| line + "\n").collect()
}

fn client(url: String, key: Option<&str>) -> Client {
    let key = key.and_then(ApiKey::new);
    Client::new(&config::Moonraker { url, api_key: key, api_key_file: None, ca: None }).unwrap()
}

fn job(file: &str) -> Job {
    Job { file: file.to_owned(), percent: Some(42) }
}

fn idle(klipper: &str) -> Activity {
    Activity::Idle { klipper: klipper.to_owned() }
}

#[test]
fn what_a_printer_does() {
    for (answers, wanted) in [
        (vec![server("ready"), objects("printing", "benchy.gcode", "Printing")], Activity::Printing(job("benchy.gcode"))),
        (vec![server("ready"), objects("paused", "benchy.gcode", "Idle")], Activity::Paused(job("benchy.gcode"))),
        (vec![server("ready"), objects("standby", "", "Ready")], idle("ready")),
        (vec![server("ready"), objects("complete", "benchy.gcode", "Idle")], idle("ready")),
        (vec![server("ready"), objects("error", "benchy.gcode", "Idle")], idle("ready")),
        // A print that OctoPrint feeds, a macro.
        (vec![server("ready"), objects("standby", "", "Printing")], Activity::Moving),
        // Without [virtual_sdcard] in printer.cfg.
        (vec![server("ready"), (200, r#"{"result":{"eventtime":1.0,"status":{"idle_timeout":{"state":"Printing","printing_time":3.1}}}}"#.into())], Activity::Moving),
        (vec![server("ready"), (200, r#"{"result":{"eventtime":1.0,"status":{}}}"#.into())], idle("ready")),
        // What print_stats last said does not hold any more.
        (vec![server("shutdown")], idle("shutdown")),
        (vec![server("error")], idle("error")),
        (vec![server("startup")], idle("startup")),
        (vec![server("disconnected")], idle("disconnected")),
        // Klipper leaves in between.
        (vec![server("ready"), error(503, "Klippy Host not connected"), server("disconnected")], idle("disconnected")),
        (vec![server("ready"), error(404, "Not Found"), server("startup")], idle("startup")),
    ] {
        let said = format!("{answers:?}");
        let (client, asked) = serve(answers);
        let activity = client.activity().unwrap();
        assert_eq!(activity, wanted, "{said}");
        assert_eq!(activity.is_busy(), !matches!(wanted, Activity::Idle { .. }));
        assert!(asked.iter().all(|request| request.contains("x-api-key: 5ec4e7\n")));
    }
}

#[test]
fn it_is_asked_as_its_documentation_says() {
    let (client, asked) = serve(vec![server("ready"), objects("standby", "", "Idle"), info()]);
    client.activity().unwrap();
    assert_eq!(client.host_version().unwrap(), "v0.12.0-85-gd785b396-dirty");
    let lines: Vec<_> = asked.iter().map(|request| request.lines().next().unwrap().to_owned()).collect();
    assert_eq!(
        lines,
        [
            "GET /server/info HTTP/1.1",
            "GET /printer/objects/query?print_stats&virtual_sdcard&idle_timeout HTTP/1.1",
            "GET /printer/info HTTP/1.1"
        ]
    );
}

#[test]
fn who_does_not_say_is_told_apart() {
    let url = "http://X";
    let said = |(client, _asked): (Client, Receiver<String>)| {
        let error = client.activity().unwrap_err();
        (error.to_string().replace(&client.url, url), error.exit())
    };
    let not_ready = vec![server("ready"), error(503, "Klippy Host not connected"), server("ready")];
    let redirect = b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n".to_vec();
    for (served, message, exit) in [
        (serve(vec![error(401, "Unauthorized")]), "Moonraker at http://X does not accept the key", ExitCode::Denied),
        (
            serve(vec![error(500, "Internal Server Error")]),
            "http://X/server/info answers 500: Internal Server Error",
            ExitCode::Busy,
        ),
        (
            serve(vec![(502, "<html>Bad Gateway</html>".into())]),
            "http://X/server/info answers 502: no message of Moonraker's",
            ExitCode::Busy,
        ),
        (
            serve(vec![(200, "<html>Mainsail</html>".into())]),
            "http://X/server/info answers what no Moonraker does: expected value at line 1 column 1",
            ExitCode::Usage,
        ),
        (
            serve(vec![(200, "{}".into())]),
            "http://X/server/info answers what no Moonraker does: missing field `result` at line 1 column 2",
            ExitCode::Usage,
        ),
        (
            serve(vec![(200, "[".repeat(100_000))]),
            "http://X/server/info answers what no Moonraker does: invalid type: sequence",
            ExitCode::Usage,
        ),
        (
            serve(not_ready),
            "http://X/printer/objects/query?print_stats&virtual_sdcard&idle_timeout answers what no Moonraker does: Klipper is ready, but not asked",
            ExitCode::Usage,
        ),
        (
            serve_raw(vec![redirect]),
            "http://X/server/info answers what no Moonraker does: a redirect to http://elsewhere.example/",
            ExitCode::Usage,
        ),
        (
            serve_raw(vec![b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()]),
            "http://X/server/info answers what no Moonraker does: ",
            ExitCode::Usage,
        ),
        (
            serve_raw(vec![b"HTTP/1.1 200 OK\r\nX: ".iter().copied().chain([b'x'; 200_000]).collect()]),
            "http://X/server/info answers what no Moonraker does: ",
            ExitCode::Usage,
        ),
        (
            serve(vec![(200, " ".repeat(2 << 20))]),
            "http://X/server/info answers what no Moonraker does: ",
            ExitCode::Usage,
        ),
        (serve_raw(vec![Vec::new()]), "Moonraker at http://X does not answer: ", ExitCode::Busy),
    ] {
        let (is, code) = said(served);
        assert!(is.starts_with(message), "{is}");
        assert_eq!(code, exit, "{is}");
    }
}

#[test]
fn nobody_is_unreachable() {
    // Bound and let go: nobody listens there now.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = client(format!("http://127.0.0.1:{port}"), None).activity().unwrap_err();
    assert!(matches!(error, MoonrakerError::Unreachable { .. }), "{error}");
    assert_eq!(error.exit(), ExitCode::Busy);
    let error = client("http://".into(), None).activity().unwrap_err();
    assert!(matches!(error, MoonrakerError::Address { .. }), "{error:?}");
}

#[test]
fn whatever_a_server_says_is_bounded() {
    let name = "x".repeat(10_000);
    let (client, _asked) = serve(vec![server("ready"), objects("printing", &name, "Printing")]);
    let Activity::Printing(job) = client.activity().unwrap() else { panic!("it prints") };
    assert_eq!(job.file.chars().count(), LONGEST_TEXT + 1);
    let (client, _asked) = serve(vec![server(&name)]);
    assert_eq!(client.activity().unwrap(), idle(&format!("{}…", "x".repeat(LONGEST_TEXT))));
    for version in ["", "v1\\n", &name] {
        let (client, _asked) = serve(vec![(200, format!(r#"{{"result":{{"software_version":"{version}"}}}}"#))]);
        assert!(matches!(client.host_version().unwrap_err(), MoonrakerError::Malformed { .. }));
    }
}

#[test]
fn a_key_comes_from_its_file_and_is_shown_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let config = config::Moonraker {
        url: "http://127.0.0.1:1".into(),
        api_key: None,
        api_key_file: Some(file.clone()),
        ca: None,
    };
    let error = Client::new(&config).unwrap_err();
    assert!(error.to_string().ends_with("No such file or directory (os error 2)"), "{error}");
    std::fs::write(&file, "two 5ec4e7 words\n").unwrap();
    let error = Client::new(&config).unwrap_err();
    assert!(error.to_string().ends_with("/key: it holds no key"), "{error}");
    std::fs::write(&file, "5ec4e7\n").unwrap();
    let client = Client::new(&config).unwrap();
    assert_eq!(client.key, ApiKey::new("5ec4e7"));
    assert!(!format!("{client:?}").contains("5ec4e7"));
}

#[test]
fn the_micro_controllers_that_klipper_is_connected_to() {
    let list = r#"{"result":{"objects":["gcode","mcu","mcu Tool head","mcu_stats","configfile","heater_bed"]}}"#;
    let status = r#"{"result":{"eventtime":1.0,"status":{
        "configfile":{"settings":{"mcu":{"serial":"/dev/serial/by-id/usb-Klipper_x-if00","restart_method":"command"},"mcu tool head":{"canbus_uuid":"11aa22bb33cc"},"printer":{"max_accel":3000.0}}},
        "mcu":{"mcu_version":"v0.12.0-85-gd785b396","mcu_constants":{"MCU":"stm32f446xx","CLOCK_FREQ":180000000}},
        "mcu Tool head":{}}}}"#;
    let (client, asked) = serve(vec![(200, list.into()), (200, status.into())]);
    let mcus = client.micro_controllers().unwrap();
    let main = Mcu {
        section: "mcu".into(),
        serial: Some("/dev/serial/by-id/usb-Klipper_x-if00".into()),
        version: Some("v0.12.0-85-gd785b396".into()),
        mcu: Some("stm32f446xx".into()),
    };
    let away = Mcu { section: "mcu Tool head".into(), serial: None, version: None, mcu: None };
    assert_eq!(mcus, [main, away]);
    let lines: Vec<_> = asked.iter().map(|request| request.lines().next().unwrap().to_owned()).collect();
    let query = "?configfile=settings&mcu=mcu_version,mcu_constants&mcu%20Tool%20head=mcu_version,mcu_constants";
    assert_eq!(lines, ["GET /printer/objects/list HTTP/1.1", &format!("GET /printer/objects/query{query} HTTP/1.1")]);
}

#[test]
fn micro_controllers_of_an_odd_shape() {
    let answers = |list: &str, status: &str| serve(vec![(200, list.to_owned()), (200, status.to_owned())]).0;
    let empty = answers(r#"{"result":{"objects":["mcu"]}}"#, r#"{"result":{"status":{"configfile":5,"mcu":[1]}}}"#);
    let unknown = Mcu { section: "mcu".into(), serial: None, version: None, mcu: None };
    assert_eq!(empty.micro_controllers().unwrap(), [unknown]);
    let names: Vec<_> = (0..1000).map(|n| format!("\"mcu {n}\"")).collect();
    let many = answers(&format!(r#"{{"result":{{"objects":[{}]}}}}"#, names.join(",")), "{}");
    assert!(many.micro_controllers().unwrap_err().to_string().ends_with("1000 micro-controllers"));
    for list in ["{}", r#"{"result":{"objects":5}}"#, r#"{"result":[]}"#] {
        assert!(matches!(answers(list, "{}").micro_controllers(), Err(MoonrakerError::Malformed { .. })), "{list}");
    }
}
