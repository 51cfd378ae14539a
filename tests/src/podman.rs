//! podman, with everything that it keeps in a folder of its own, and images that `tools/images` makes in it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A podman of our own. Its containers and images are gone with the value.
pub struct Engine {
    folder: TempDir,
}

impl Engine {
    /// One without an image.
    pub fn new() -> Self {
        let engine = Self { folder: TempDir::new().expect("there is room for a folder") };
        let at = |name: &str| engine.folder.path().join(name).display().to_string();
        // runc goes without systemd, and with control groups of the first kind, too; the network of the host, without
        // rights to make another. Every file system takes vfs.
        let settings = format!(
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\n\
             tmp_dir = {:?}\n[containers]\nnetns = \"host\"\n\
             default_ulimits = [\"nofile=1024:20000\", \"nproc=1000:30000\"]\n",
            at("libpod")
        );
        fs::write(at("containers.conf"), settings).expect("there is room for a file");
        let storage =
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n", at("storage"), at("run"));
        fs::write(at("storage.conf"), storage).expect("there is room for a file");
        engine
    }

    /// Where all of it is; `images` in it is where the archives are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `program`, which runs podman.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("CONTAINERS_CONF", self.folder.path().join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.folder.path().join("storage.conf"));
        // Each layer is a copy of all below it.
        command.env("BUILDAH_LAYERS", "false");
        command
    }

    /// podman with these arguments, to its end.
    pub fn podman<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        let output = self.command("podman").args(arguments).output();
        output.unwrap_or_else(|error| panic!("podman: {error}: run `tools/debian-packages test`"))
    }

    /// What `tools/images` says that makes `images` of these programs, which it finds by these names.
    pub fn make(&self, architecture: &str, programs: &[(PathBuf, &str)], images: &[&str]) -> String {
        let folder = self.folder.path().join("programs");
        fs::create_dir_all(folder.join(architecture)).expect("there is room for a folder");
        for (program, name) in programs {
            fs::copy(program, folder.join(architecture).join(name)).expect("there is room for a program");
        }
        let mut command = self.command(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/images"));
        command.args(["--arch", architecture, "--programs"]).arg(&folder).args(images);
        let output = command.env("CARGO_TARGET_DIR", self.folder.path()).output().expect("a shell script");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The Debian that this host is, with what kflash-builder needs of its base, apt. Returns the name of the image.
    pub fn debian(&self) -> String {
        let release = fs::read_to_string("/etc/os-release").expect("a Debian");
        let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).expect("a Debian");
        let archive = self.folder.path().join("debian.tar");
        let mut command = Command::new("mmdebstrap");
        command
            .args([
                "--quiet",
                "--variant=apt",
                "--dpkgopt=force-unsafe-io",
                "--aptopt=Acquire::Languages \"none\"",
                suite,
            ])
            .arg(&archive);
        let output = command.output();
        let output = output.unwrap_or_else(|error| panic!("mmdebstrap: {error}: run `tools/debian-packages test`"));
        assert!(output.status.success(), "{output:?}");
        let name = format!("localhost/debian:{suite}");
        let output = self.podman([OsStr::new("import"), archive.as_os_str(), OsStr::new(&name)]);
        assert!(output.status.success(), "{output:?}");
        fs::remove_file(archive).expect("it was there");
        name
    }

    /// Removes a folder that containers wrote to: without root, files of theirs belong to users whom only podman can be.
    pub fn remove(&self, folder: &Path) {
        if fs::metadata(self.folder.path()).is_ok_and(|ours| ours.uid() != 0) {
            self.podman([OsStr::new("unshare"), OsStr::new("rm"), OsStr::new("-rf"), folder.as_os_str()]);
        } else {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Those that a test which failed left running.
        self.podman(["rm", "--all", "--force", "--time", "0"]);
        self.remove(&self.folder.path().join("storage"));
    }
}
