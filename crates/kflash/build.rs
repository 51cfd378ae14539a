//! `include_dir` does not notice new files: the boards are watched here.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../../boards");
}
