//! A stand-in for the Klipper host, behind the Unix socket that Moonraker connects to: JSON, each message ended by
//! 0x03, as Klipper's API server documentation has it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, thread};

use serde_json::{Map, Value, json};

const END: u8 = 3;

/// What it says of itself.
#[derive(Clone, Debug)]
pub struct Says {
    /// `ready`, `startup`, `error`, `shutdown`.
    pub state: &'static str,
    /// `print_stats.state`; `None` where printer.cfg has no such section.
    pub print: Option<&'static str>,
    /// `idle_timeout.state`.
    pub idle: &'static str,
    /// The firmware of `mcu`.
    pub firmware: &'static str,
}

/// A Klipper host.
pub struct Klippy {
    socket: PathBuf,
    inner: Arc<Inner>,
}

struct Inner {
    says: Mutex<Says>,
    /// Whom it talks to.
    clients: Mutex<Vec<UnixStream>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Klippy {
    /// It comes up behind `socket`.
    pub fn start(socket: &Path, says: Says) -> Self {
        let inner = Arc::new(Inner { says: Mutex::new(says), clients: Mutex::default() });
        let listener = UnixListener::bind(socket).expect("a socket");
        let server = Arc::clone(&inner);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                lock(&server.clients).push(stream.try_clone().expect("a descriptor"));
                let server = Arc::clone(&server);
                thread::spawn(move || server.talk(&stream));
            }
        });
        Self { socket: socket.to_owned(), inner }
    }

    /// From now on, it says this.
    pub fn says(&self, says: Says) {
        *lock(&self.inner.says) = says;
    }

    /// It stops for a fault while it runs, and tells whoever has subscribed.
    pub fn shut_down(&self) {
        lock(&self.inner.says).state = "shutdown";
        let webhooks = lock(&self.inner.says).webhooks();
        let update = json!({
            "method": "process_status_update", "params": {"eventtime": 2.0, "status": {"webhooks": webhooks}},
        });
        for client in &*lock(&self.inner.clients) {
            send(client, &update);
        }
    }
}

impl Drop for Klippy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        for client in &*lock(&self.inner.clients) {
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn send(mut to: &UnixStream, message: &Value) {
    let mut bytes = message.to_string().into_bytes();
    bytes.push(END);
    let _ = to.write_all(&bytes);
}

impl Inner {
    fn talk(&self, stream: &UnixStream) {
        let mut reader = BufReader::new(stream);
        loop {
            let mut bytes = Vec::new();
            match reader.read_until(END, &mut bytes) {
                Ok(read) if read > 0 && bytes.pop() == Some(END) => {}
                _ => return,
            }
            let request: Value = serde_json::from_slice(&bytes).expect("JSON");
            if request.get("id").is_some() {
                let result =
                    lock(&self.says).answer(request["method"].as_str().unwrap_or_default(), &request["params"]);
                send(stream, &json!({"id": request["id"], "result": result}));
            }
        }
    }
}

impl Says {
    /// What an idle printer says.
    pub fn ready() -> Self {
        Self { state: "ready", print: Some("standby"), idle: "Ready", firmware: "v0.13.0-1-gabcdef0" }
    }

    fn webhooks(&self) -> Value {
        json!({"state": self.state, "state_message": format!("it is {}", self.state)})
    }

    fn answer(&self, method: &str, params: &Value) -> Value {
        match method {
            "info" => json!({
                "state": self.state, "state_message": format!("it is {}", self.state), "hostname": "voron",
                "klipper_path": "/opt/klipper", "python_path": "/usr/bin/python3", "process_id": std::process::id(),
                "user_id": 1000, "group_id": 1000, "log_file": "/dev/null", "config_file": "/dev/null",
                "software_version": "v0.13.0-1-gabcdef0", "cpu_info": "4 core",
            }),
            "list_endpoints" => json!({"endpoints": [
                "info", "emergency_stop", "objects/list", "objects/query", "objects/subscribe", "list_endpoints",
                "gcode/script", "gcode/subscribe_output", "register_remote_method",
            ]}),
            "objects/list" => json!({"objects": self.objects().keys().collect::<Vec<_>>()}),
            "objects/query" | "objects/subscribe" => {
                json!({"eventtime": 1.0, "status": self.status(&params["objects"])})
            }
            _ => json!({}),
        }
    }

    fn objects(&self) -> Map<String, Value> {
        let mut objects = Map::new();
        objects.insert("webhooks".into(), self.webhooks());
        let settings = json!({"mcu": {"serial": "/dev/serial/x"}, "mcu ebb": {"serial": "/dev/serial/y"}});
        objects.insert("configfile".into(), json!({"config": {}, "settings": settings}));
        objects.insert("mcu".into(), json!({"mcu_version": self.firmware, "mcu_constants": {"MCU": "stm32f446xx"}}));
        objects.insert("mcu EBB".into(), json!({"mcu_version": "v1", "mcu_constants": {"MCU": "stm32g0b1xx"}}));
        objects.insert("idle_timeout".into(), json!({"state": self.idle, "printing_time": 0.0}));
        objects.insert("display_status".into(), json!({"progress": 0.0, "message": null}));
        objects.insert("pause_resume".into(), json!({"is_paused": self.print == Some("paused")}));
        if let Some(print) = self.print {
            let file = if print == "standby" { "" } else { "benchy.gcode" };
            objects.insert("print_stats".into(), json!({"state": print, "filename": file, "print_duration": 60.0}));
            let active = print == "printing";
            objects
                .insert("virtual_sdcard".into(), json!({"progress": 0.42, "is_active": active, "file_position": 4200}));
        }
        objects
    }

    /// The objects that were asked for, with all of their attributes or some.
    fn status(&self, wanted: &Value) -> Map<String, Value> {
        let mut objects = self.objects();
        objects.retain(|name, _| wanted.get(name).is_some());
        for (name, object) in &mut objects {
            if let (Some(only), Some(object)) = (wanted[name.as_str()].as_array(), object.as_object_mut()) {
                object.retain(|attribute, _| only.iter().any(|one| one == attribute.as_str()));
            }
        }
        objects
    }
}
