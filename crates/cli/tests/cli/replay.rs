//! `replay`: recordings as pictures, and recordings that are damaged.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::Output;

use regex::Regex;
use roxmltree::{Document, Node};
use serde_json::{Value, json};
use tempfile::TempDir;
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

use crate::common::recordings;
use crate::common::{self, text};

fn replay(args: &[&str]) -> Output {
    let mut command = common::process();
    command.arg("replay").args(args).output().unwrap()
}

/// The names of the picture's animations.
struct Player<'a> {
    document: &'a Document<'a>,
    /// For each animation, from which percentage on it is visible or not.
    animations: HashMap<String, Vec<(f64, bool)>>,
}

impl<'a> Player<'a> {
    fn new(document: &'a Document<'a>) -> Self {
        let style = document
            .descendants()
            .find(|node| node.has_tag_name("style"))
            .and_then(|node| node.text())
            .unwrap();
        let whole = Regex::new(r"@keyframes (k\d+)\{((?:[\d.]+%\{[^}]*\})*)\}").unwrap();
        let one = Regex::new(r"([\d.]+)%\{visibility:(visible|hidden)").unwrap();
        let animations = whole.captures_iter(style).map(|animation| {
            let frames = one.captures_iter(&animation[2]);
            let frames = frames.map(|frame| (frame[1].parse().unwrap(), &frame[2] == "visible"));
            (animation[1].to_owned(), frames.collect())
        });
        Self {
            document,
            animations: animations.collect(),
        }
    }

    /// The rows of text at a time in percent; without a time, as if animations are off.
    fn rows(&self, time: Option<f64>) -> Vec<String> {
        let mut cells: BTreeMap<(usize, usize), &str> = BTreeMap::new();
        for group in self.groups().filter(|group| self.is_seen(*group, time)) {
            for line in group.children().filter(Node::is_element) {
                let number = |name| line.attribute(name).unwrap().parse::<usize>().unwrap();
                let text = line.text().unwrap();
                assert_eq!(number("textLength"), 9 * text.width(), "{text}");
                let (row, mut column) = ((number("y") - 38) / 23, (number("x") - 22) / 9);
                for cluster in text.graphemes(true) {
                    if cluster != " " {
                        let below = cells.insert((row, column), cluster);
                        assert_eq!(below, None, "{text}, row {row}, column {column}");
                    }
                    column += cluster.width();
                }
            }
        }
        let mut rows: Vec<String> = Vec::new();
        for ((row, column), cluster) in cells {
            rows.resize(rows.len().max(row + 1), String::new());
            let before = &mut rows[row];
            assert!(before.width() <= column, "{cluster} stands over {before}");
            *before += &" ".repeat(column - before.width());
            *before += cluster;
        }
        rows
    }

    /// The groups of the text.
    fn groups(&self) -> impl Iterator<Item = Node<'a, 'a>> {
        let is_text = |node: &Node<'_, '_>| {
            let class = node.attribute("class").unwrap_or_default();
            node.has_tag_name("g") && !class.starts_with('s')
        };
        self.document.descendants().filter(is_text)
    }

    fn is_seen(&self, group: Node<'_, '_>, time: Option<f64>) -> bool {
        let Some(time) = time else {
            return !group.attribute("class").unwrap().contains(" h");
        };
        let style = group.attribute("style").unwrap();
        let frames = &self.animations[style.strip_prefix("animation-name:").unwrap()];
        let (_, seen) = frames.iter().rfind(|(begin, _)| *begin <= time).unwrap();
        *seen
    }
}

/// The picture of a recording, its drafts shown for a second each.
fn picture(lines: &[Value]) -> String {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (file, svg) = (path("in.jsonl"), path("out.svg"));
    fs::write(&file, recordings::text(lines)).unwrap();
    let output = replay(&[&file, "--svg", &svg, "--diffusion-visual-delay", "1000"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    fs::read_to_string(svg).unwrap()
}

/// The middle of a frame, in percent.
fn middle(frame: usize, frames: usize) -> f64 {
    (frame as f64 + 0.5) / (frames as f64 + 3.0) * 100.0
}

#[test]
fn a_picture_shows_each_draft_in_its_time_and_at_last_the_answer() {
    // 18 tokens in a row.
    let words = ["one ", "two ", "six ", "ten ", "hat ", "cat "];
    let drafts: Vec<Vec<&str>> = (0..7)
        .map(|step| {
            (0..40)
                .map(|position| match position % 3 == 2 {
                    true => words[(position * 5 + step * 2) % 6],
                    false => words[(position + step / 3) % 6],
                })
                .collect()
        })
        .collect();
    let svg = picture(&recordings::lines(&drafts));
    let document = Document::parse(&svg).unwrap();
    let player = Player::new(&document);
    let rows = |draft: &[&str]| -> Vec<String> {
        let rows = draft.chunks(18);
        rows.map(|row| row.concat().trim_end().to_owned()).collect()
    };
    for (frame, draft) in drafts.iter().enumerate() {
        assert_eq!(player.rows(Some(middle(frame, 8))), rows(draft), "{frame}");
    }
    let last = rows(drafts.last().unwrap());
    for time in [Some(middle(7, 8)), Some(99.9), None] {
        assert_eq!(player.rows(time), last, "{time:?}");
    }
    // Only what changes is there twice.
    assert!(svg.len() < 8000, "{} bytes", svg.len());
}

#[test]
fn whatever_tokens_hold_is_text_and_nothing_else() {
    let nasty = [
        "<script>alert(1)</script>",
        "]]>&amp;<!--",
        "\"' onload='x'",
        "\0\x01\x1b[2J\x07",
        "\u{fffe}\u{ffff}\u{85}",
        "\u{202e}rtl\u{2066}",
        "漢字仮名",
        "e\u{301}\u{1f469}\u{200d}",
        "\u{1f467} ",
        "</text></svg>",
        "a\nb\r\n\n",
        "\t{}%",
        "العربية",
        "an unusually long token of more columns than a row of the picture has, which is not cut at its end ",
        "\u{200b}",
    ];
    let noise: Vec<&str> = nasty.iter().rev().copied().collect();
    let svg = picture(&recordings::lines(&[noise, nasty.to_vec()]));
    let document = Document::parse(&svg).unwrap();
    for node in document.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        assert!(
            ["svg", "style", "rect", "text", "tspan", "g"].contains(&name),
            "{name}"
        );
        for attribute in node.attributes() {
            let name = attribute.name();
            assert!(!name.starts_with("on") && name != "href", "{name}");
        }
    }
    let shown = |text: &str| -> String {
        let kept =
            |c: &char| !c.is_whitespace() && !c.is_control() && !"\u{202e}\u{2066}".contains(*c);
        let as_xml = |c| {
            if "\u{fffe}\u{ffff}".contains(c) {
                '\u{fffd}'
            } else {
                c
            }
        };
        text.chars().filter(kept).map(as_xml).collect()
    };
    let rows = Player::new(&document).rows(None);
    assert_eq!(shown(&rows.concat()), shown(&nasty.concat()));
    assert!(rows.iter().all(|row| row.width() <= 72), "{rows:#?}");
}

#[test]
fn words_are_not_broken_and_lines_of_code_are_kept() {
    let tokens: Vec<&str> = "def f(x):\n    return x\n\nA sentence that is so long that it has to be broken somewhere \
                             between two of its words, of which one is a wordofsomanylettersthatitwouldbecutxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx."
        .split_word_bounds()
        .collect();
    let svg = picture(&recordings::lines(&[tokens]));
    let document = Document::parse(&svg).unwrap();
    assert_eq!(
        Player::new(&document).rows(None),
        [
            "def f(x):",
            "    return x",
            "",
            "A sentence that is so long that it has to be broken somewhere between",
            "two of its words, of which one is a wordofsomanylettersthatitwouldbecutx",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.",
        ]
    );
}

#[test]
fn noise_after_the_end_of_an_answer_vanishes() {
    let mut lines = recordings::lines(&[vec!["Oslo", ".", " the", " and"]]);
    let end = lines.len() - 2;
    let answer: Value = lines[end]["tokens"].as_array().unwrap()[..2].into();
    lines[end]["answer"] = answer;
    let svg = picture(&lines);
    let document = Document::parse(&svg).unwrap();
    let player = Player::new(&document);
    assert_eq!(player.rows(Some(middle(0, 2))), ["Oslo. the and"]);
    assert_eq!(player.rows(Some(middle(1, 2))), ["Oslo."]);
}

const OPEN: &str = "<open>";
const CLOSE: &str = "<close>";

/// What each frame shows of these drafts, the last of which is the answer up to `end`, in a
/// recording of a model that thinks.
fn shown_of_thoughts(drafts: &[Vec<&str>], end: usize) -> Vec<String> {
    let mut lines = recordings::lines(drafts);
    let id = |mark: &str| {
        let pieces = lines[1]["pieces"].as_array().unwrap();
        let bytes = Value::from(mark.as_bytes());
        let piece = pieces.iter().find(|piece| piece[1] == bytes).unwrap();
        piece[0].clone()
    };
    lines[0]["channel"] = json!({"open": id(OPEN), "close": id(CLOSE)});
    let done = lines.len() - 2;
    let answer: Value = lines[done]["tokens"].as_array().unwrap()[..end].into();
    lines[done]["answer"] = answer;
    let svg = picture(&lines);
    let document = Document::parse(&svg).unwrap();
    let player = Player::new(&document);
    let frames = drafts.len() + 1;
    (0..frames)
        .map(|frame| player.rows(Some(middle(frame, frames))).concat())
        .collect()
}

/// Every third token is noise: inside a thought it is hidden like the thought, and marks that are
/// noise neither begin nor end one.
#[test]
fn thoughts_are_hidden_and_the_noise_in_them() {
    let drafts = [
        vec![OPEN, "hm", "noise", "hm", CLOSE, "x", "Oslo", "."],
        vec![OPEN, "hm", CLOSE, "hm", CLOSE, OPEN, "Oslo", "."],
        // An end mark without a beginning opens nothing.
        vec!["so", "hm", "so", "hm", CLOSE, "x", "Oslo", "."],
        vec![OPEN, "hm", "so", "hm", CLOSE, "", "Oslo", "."],
    ];
    assert_eq!(shown_of_thoughts(&drafts, 8), ["Oslo."; 5]);
    // Noise after the end of an answer, which is shown unless it is part of a thought.
    let ends = [vec!["Oslo", OPEN, "noise", "x", CLOSE, "and"]];
    let shown = shown_of_thoughts(&ends, 1);
    assert!(shown[0].starts_with("Oslo[think") && shown[0].ends_with("and"));
    assert!(!shown[0].contains("noise"), "{shown:?}");
    assert_eq!(shown[1], "Oslo");
}

#[test]
fn a_picture_does_not_replace_its_recording() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("in.jsonl");
    let name = file.to_str().unwrap();
    let lines = recordings::text(&recordings::lines(&[vec!["a"]]));
    fs::write(&file, &lines).unwrap();
    let output = replay(&[name, "--svg", name]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is the recording itself"));
    assert_eq!(fs::read_to_string(&file).unwrap(), lines);
    let output = replay(&[name, "--svg", "/no/such/directory/out.svg"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/directory/out.svg"));
}

/// The error for a file with this content, and what is shown.
fn damaged(content: impl AsRef<[u8]>) -> (String, String) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("run.jsonl");
    fs::write(&file, content).unwrap();
    let output = replay(&[file.to_str().unwrap(), "--delay", "0"]);
    let stderr = text(&output.stderr).to_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let error = stderr
        .split("error: ")
        .nth(1)
        .unwrap_or_else(|| panic!("{stderr}"));
    assert!(error.contains("run.jsonl: "), "{error}");
    (error.to_owned(), text(&output.stdout).to_owned())
}

#[test]
fn a_truncated_recording_is_shown_and_reported() {
    let lines = recordings::lines(&[vec!["a", "b"], vec!["c", "b"]]);
    let whole = recordings::text(&lines);
    let (error, shown) = damaged(recordings::text(&lines[..lines.len() - 1]));
    assert!(error.contains("its last answer does not end"), "{error}");
    assert_eq!(shown, "cb\n");
    let (error, shown) = damaged(recordings::text(&lines[..3]));
    assert!(error.contains("its last answer does not end"), "{error}");
    assert_eq!(shown, "");
    let (error, _) = damaged(recordings::text(&lines[..1]));
    assert!(error.contains("it has no answer"), "{error}");
    // In the middle of any line except the first one.
    let mut at = whole.find('\n').unwrap() + 2;
    while at < whole.len() - 1 {
        if !whole[..at].ends_with('\n') && !whole[at..].starts_with('\n') {
            let (error, _) = damaged(&whole[..at]);
            let number = whole[..at].lines().count();
            assert!(
                error.contains(&format!("line {number} is cut off")),
                "{at}: {error}"
            );
        }
        at += 97;
    }
    let (error, _) = damaged("");
    assert!(error.contains("it is empty"), "{error}");
}

#[test]
fn lines_that_do_not_fit_together_are_named() {
    let lines = recordings::lines(&[vec!["a", "b"], vec!["c", "b"]]);
    let changed = |index: usize, key: &str, value: Value| {
        let mut lines = lines.clone();
        lines[index][key] = value;
        recordings::text(&lines)
    };
    let without = |range: std::ops::Range<usize>| {
        let mut lines = lines.clone();
        lines.drain(range);
        recordings::text(&lines)
    };
    let twice = |index: usize| {
        let mut lines = lines.clone();
        lines.insert(index, lines[index].clone());
        recordings::text(&lines)
    };
    for (content, expected) in [
        (without(2..4), "line 3: block 0 has no drafts"),
        (
            changed(3, "entropy", json!([0.1])),
            "line 4: it has 1 entropies for a canvas of 2 tokens",
        ),
        (
            changed(3, "accepted", json!([])),
            "line 4: it has 0 marks of acceptance for a canvas of 2 tokens",
        ),
        (
            changed(3, "sampled", json!([0, 0, 0])),
            "line 4: it has 3 drawn tokens for a canvas of 2 tokens",
        ),
        (
            changed(3, "canvas", json!([])),
            "line 4: it has 0 tokens for a canvas of 2 tokens",
        ),
        (
            changed(2, "canvas", json!([])),
            "line 3: it has 0 tokens for a canvas of 0 tokens",
        ),
        (
            changed(4, "tokens", json!([0])),
            "line 5: it has 1 tokens for a canvas of 2 tokens",
        ),
        (
            changed(3, "argmax", json!([0, 77])),
            "line 4: token 77 has no bytes",
        ),
        (
            changed(4, "answer", json!([-1])),
            "line 5: token -1 has no bytes",
        ),
        (
            changed(2, "max_steps", json!(0)),
            "line 3: step 0 is not one of 0",
        ),
        (
            changed(3, "step", json!(u32::MAX)),
            "line 4: step 4294967295 is not one of 2",
        ),
        (
            changed(3, "block", json!(7)),
            "line 4: its block is 7, but block 0 is at work",
        ),
        (twice(3), "line 5: step 1 follows step 1"),
        (twice(0), "line 2: another recording starts"),
        (
            changed(0, "format", json!(2)),
            "line 1: it does not start a recording of format 1",
        ),
        (
            without(0..1),
            "line 1: it does not start a recording of format 1",
        ),
        ("no JSON\n{}\n".into(), "line 1: "),
    ] {
        let (error, shown) = damaged(content);
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(shown, "", "{expected}");
    }
    let (error, _) = damaged(b"\xff\n");
    assert!(
        error.contains("the byte at offset 0 is not UTF-8"),
        "{error}"
    );
}

/// README shows what the tool makes of the recording, by the command in docs/command-line.md.
#[test]
fn the_picture_of_the_readme_is_made_by_the_documented_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let (readme, documented) = (read("README.md"), read("docs/command-line.md"));
    let command =
        Regex::new(r"llama-diffusion-cli replay (docs/\S+\.jsonl) --svg (docs/\S+\.svg)(.*)")
            .unwrap();
    let found = command.captures(&documented).unwrap();
    let (recording, svg) = (&found[1], &found[2]);
    assert!(readme.contains(&format!("]({svg})")), "{svg}");
    let dir = TempDir::new().unwrap();
    let made = dir.path().join("made.svg");
    let recording = root.join(recording);
    let mut args = vec![recording.to_str().unwrap(), "--svg", made.to_str().unwrap()];
    args.extend(found[3].split_whitespace());
    let output = replay(&args);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let made = fs::read_to_string(made).unwrap();
    assert!(
        made == read(svg),
        "{svg} is not what the command makes: run it again"
    );
    assert!(made.len() < 100_000, "{} bytes", made.len());
    Document::parse(&made).unwrap();
}

#[test]
fn a_picture_comes_with_the_corrections() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (file, svg) = (path("in.jsonl"), path("out.svg"));
    let lines = recordings::lines(&[vec!["a", "b"], vec!["a", "c"]]);
    fs::write(&file, recordings::text(&lines)).unwrap();
    for (flags, is_written) in [(&["--diffusion-stats"][..], true), (&[], false)] {
        let output = replay(&[&[&*file, "--svg", &*svg], flags].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let lines = text(&output.stderr);
        assert_eq!(lines.contains("\ncorrections: "), is_written, "{lines}");
    }
}
