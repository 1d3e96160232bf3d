//! The live view in a terminal: a pseudo-terminal whose other end is a terminal emulator's grid.
#![cfg(all(unix, feature = "demo-model"))]

use std::fs;
use std::io::Write as _;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use alacritty_terminal::event::VoidListener;
use alacritty_terminal::grid::Dimensions as _;
use alacritty_terminal::index::{Column, Line};
use alacritty_terminal::term::cell::{Cell, Flags};
use alacritty_terminal::term::test::TermSize;
use alacritty_terminal::term::{Config, Term, TermMode};
use alacritty_terminal::vte::ansi::{Color, NamedColor, Processor};
use tempfile::TempDir;

use crate::common::recordings;
use crate::pty::{self, Pty, size};

/// The sequence at the end of a frame.
const FRAME_END: &[u8] = b"\x1b[?2026l";
const QUESTION: &str = "What is the capital of Norway?";
const ANSWER: &str = "The capital of Norway is Oslo.";
const STORY: &str = "Tell a story about Grace and a white owl.";
const NOTICE: &str = "no -m: using the small demo model";
const SUMMARY: [&str; 3] = ["total time: ", "throughput: ", "answer: "];

/// A terminal with the tool in it.
struct Terminal {
    term: Term<VoidListener>,
    parser: Processor,
    pty: Pty,
    /// The output of the tool that is not shown yet.
    pending: Vec<u8>,
    /// All output of the tool.
    written: Vec<u8>,
}

impl Terminal {
    /// Runs the tool, with one thread, below the lines of `history`.
    fn run(
        args: &[&str],
        variables: &[(&str, &str)],
        history: usize,
        columns: usize,
        rows: usize,
    ) -> Self {
        let tool = assert_cmd::cargo::cargo_bin!("llama-diffusion-cli");
        let mut command = pty::command(tool, "xterm-256color");
        for (name, value) in variables {
            command.env(name, value);
        }
        command.args(args);
        let mut terminal = Self {
            term: Term::new(
                Config::default(),
                &TermSize::new(columns, rows),
                VoidListener,
            ),
            parser: Processor::new(),
            pty: Pty::run(command, size(columns, rows)),
            pending: Vec::new(),
            written: Vec::new(),
        };
        for line in earlier(history) {
            terminal
                .parser
                .advance(&mut terminal.term, format!("{line}\r\n").as_bytes());
        }
        terminal
    }

    /// Shows the output of the tool, up to the end of a frame. False if the tool ended before.
    fn next_frame(&mut self) -> bool {
        let mut searched = 0;
        loop {
            let found = self.pending[searched..]
                .windows(FRAME_END.len())
                .position(|bytes| bytes == FRAME_END);
            if let Some(at) = found {
                let rest = self.pending.split_off(searched + at + FRAME_END.len());
                self.show();
                self.pending = rest;
                return true;
            }
            searched = self.pending.len().saturating_sub(FRAME_END.len());
            match self.pty.receive() {
                Ok(bytes) => self.pending.extend(bytes),
                Err(RecvTimeoutError::Disconnected) => {
                    self.show();
                    return false;
                }
                Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
            }
        }
    }

    /// Waits until the tool has written this `count` times.
    fn await_text(&mut self, text: &str, count: usize) {
        let found = |bytes: &[u8]| String::from_utf8_lossy(bytes).matches(text).count();
        while found(&self.written) + found(&self.pending) < count {
            let bytes = self.pty.receive().unwrap();
            self.pending.extend(bytes);
        }
    }

    fn show(&mut self) {
        self.parser.advance(&mut self.term, &self.pending);
        self.written.append(&mut self.pending);
    }

    /// Shows everything that arrives. Returns the exit status.
    fn finish(&mut self) -> u32 {
        while self.next_frame() {}
        self.pty.status()
    }

    fn resize(&mut self, columns: usize, rows: usize) {
        self.term.resize(TermSize::new(columns, rows));
        self.pty.master.resize(size(columns, rows)).unwrap();
    }

    fn text(&self, line: Line) -> String {
        let mut text = String::new();
        for column in 0..self.term.columns() {
            let cell: &Cell = &self.term.grid()[line][Column(column)];
            if !cell
                .flags
                .intersects(Flags::WIDE_CHAR_SPACER | Flags::LEADING_WIDE_CHAR_SPACER)
            {
                text.push(cell.c);
                text.extend(cell.zerowidth().unwrap_or_default());
            }
        }
        text
    }

    fn is_wrapped(&self, line: Line) -> bool {
        let last = Column(self.term.columns() - 1);
        self.term.grid()[line][last].flags.contains(Flags::WRAPLINE)
    }

    /// The row of the cursor.
    fn cursor(&self) -> Line {
        self.term.grid().cursor.point.line
    }

    /// Rows from `first` up to, but not including, `end`.
    fn rows(&self, first: Line, end: Line) -> Vec<String> {
        let row = |line| self.text(Line(line)).trim_end().to_owned();
        (first.0..end.0).map(row).collect()
    }

    /// Rows that scrolled out, and those above the cursor: a region must not change them.
    fn above(&self) -> Vec<String> {
        self.rows(self.term.topmost_line(), self.cursor())
    }

    /// Rows from the cursor on.
    fn region(&self) -> Vec<String> {
        self.rows(self.cursor(), Line(self.term.bottommost_line().0 + 1))
    }

    /// All lines, without the empty ones at the end; lines that the terminal wrapped are joined.
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        for line in self.term.topmost_line().0..=self.term.bottommost_line().0 {
            let last = lines.last_mut().unwrap();
            *last += &self.text(Line(line));
            if !self.is_wrapped(Line(line)) {
                last.truncate(last.trim_end().len());
                lines.push(String::new());
            }
        }
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    /// Whether the terminal is as it was before: the cursor shown, no colours, lines wrapped as
    /// usual.
    fn assert_restored(&self) {
        let mode = self.term.mode();
        assert!(
            mode.contains(TermMode::SHOW_CURSOR | TermMode::LINE_WRAP),
            "{mode:?}"
        );
        let pen = &self.term.grid().cursor.template;
        assert_eq!(
            (pen.fg, pen.flags),
            (Color::Named(NamedColor::Foreground), Flags::empty())
        );
        assert!(
            self.region().iter().all(String::is_empty),
            "{:?}",
            self.region()
        );
    }

    /// The lines are those of `history`, then some that begin with each of `rest`, and no more.
    fn assert_lines(&self, history: usize, rest: &[&str]) {
        let lines = self.lines();
        assert_eq!(lines[..history], earlier(history), "{lines:#?}");
        let found = &lines[history..];
        assert_eq!(found.len(), rest.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(rest) {
            assert!(found.starts_with(expected), "{found:?} is not {expected:?}");
        }
    }
}

/// The contents of the terminal before the tool ran.
fn earlier(count: usize) -> Vec<String> {
    (0..count).map(|line| format!("line {line}")).collect()
}

fn ask<'a>(question: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![
        "-t",
        "1",
        "-s",
        "1",
        "-p",
        question,
        "--diffusion-visual",
        "--diffusion-visual-progress",
    ];
    args.extend(more);
    args
}

#[test]
fn nothing_above_the_region_moves_and_nothing_of_it_stays() {
    const HISTORY: usize = 30;
    for (question, columns) in [(QUESTION, 80), (QUESTION, 30), (STORY, 80)] {
        let mut terminal = Terminal::run(&ask(question, &[]), &[], HISTORY, columns, 24);
        let mut above = Vec::new();
        let mut canvas = String::new();
        let mut frames = 0;
        while terminal.next_frame() {
            let region = terminal.region();
            let Some(status) = region.iter().find(|row| row.starts_with("[#")) else {
                continue; // no draft: the end of a canvas
            };
            frames += 1;
            assert_eq!(
                Some(status),
                region.iter().rfind(|row| !row.is_empty()),
                "{region:#?}"
            );
            let at_work = status
                .split(',')
                .next()
                .unwrap()
                .split(']')
                .next_back()
                .unwrap();
            if at_work != canvas {
                // The text of the canvas before has scrolled up.
                canvas = at_work.to_owned();
                above = terminal.above();
            }
            assert_eq!(terminal.above(), above, "frame {frames}");
            assert!(!terminal.term.mode().contains(TermMode::SHOW_CURSOR));
            let shown = region.concat();
            for special in ["<bos>", "<eos>", "<pad>", "turn|>", "<|turn"] {
                assert!(!shown.contains(special), "{shown}");
            }
        }
        assert!(frames >= 2, "{frames} frames");
        assert_eq!(terminal.finish(), 0);
        terminal.assert_restored();
        let answer = if question == QUESTION {
            ANSWER
        } else {
            "One Sunday, Grace "
        };
        terminal.assert_lines(
            HISTORY,
            &[NOTICE, answer, SUMMARY[0], SUMMARY[1], SUMMARY[2]],
        );
    }
}

/// A file with a recording of these drafts.
fn recording(dir: &TempDir, drafts: &[Vec<&str>]) -> String {
    let path = dir.path().join("recording.jsonl");
    fs::write(&path, recordings::text(&recordings::lines(drafts))).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn wide_characters_and_marks_take_the_columns_that_the_terminal_gives_them() {
    let dir = TempDir::new().unwrap();
    let han = "漢字仮名交じり文は幅が二つある文字です"; // 19 wide ones
    let marks = [
        "e\u{301}",
        "n\u{303}",
        "x",
        "\u{1f600}",
        "\u{1f680}",
        "한",
        "글",
        "a\u{308}\u{301}",
        "ｗ",
        "-",
    ];
    let wide: Vec<&str> = han.split("").filter(|piece| !piece.is_empty()).collect();
    let mut drafts = Vec::new();
    for step in 0..12 {
        let mut draft: Vec<&str> = vec!["a"; step % 4]; // shifts what falls on the edge
        draft.extend(&wide);
        draft.extend(&marks[step % marks.len()..]);
        draft.extend(&marks);
        draft.resize(45, ""); // tokens without text: a canvas keeps its length
        drafts.push(draft);
    }
    let file = recording(&dir, &drafts);
    for columns in [11, 20, 21] {
        let mut terminal = Terminal::run(&["replay", &file, "--delay", "1"], &[], 20, columns, 16);
        for draft in &drafts {
            assert!(terminal.next_frame());
            assert_eq!(terminal.above(), earlier(20), "{columns}");
            let region = terminal.region();
            let text: Vec<&String> = region
                .iter()
                .take_while(|row| !row.starts_with('['))
                .collect();
            assert_eq!(
                text.iter().map(|row| row.as_str()).collect::<String>(),
                draft.concat(),
                "{region:#?}"
            );
            // No row is shorter than necessary: a wide character may leave one column.
            let full = text.iter().filter(|row| !row.is_empty()).count() - 1;
            for row in &text[..full] {
                assert!(
                    unicode_width::UnicodeWidthStr::width(row.as_str()) + 1 >= columns,
                    "{region:#?}"
                );
            }
        }
        assert_eq!(terminal.finish(), 0);
        terminal.assert_restored();
        let answer = terminal.lines().split_off(20).concat();
        assert_eq!(answer.replace(' ', ""), drafts.last().unwrap().concat());
    }
}

#[test]
fn a_resize_leaves_one_region_and_nothing_of_the_old_one() {
    let dir = TempDir::new().unwrap();
    let words = [
        "alpha ", "beta ", "gamma ", "delta ", "epsilon ", "zeta ", "eta ", "theta ",
    ];
    let drafts: Vec<Vec<&str>> = (0..24)
        .map(|step| {
            (0..40)
                .map(|position| words[(position * 5 + step) % words.len()])
                .collect()
        })
        .collect();
    let file = recording(&dir, &drafts);
    let sizes = [
        (57, 30),
        (57, 18),
        (140, 18),
        (120, 40),
        (80, 22),
        (100, 30),
    ];
    // A terminal that wraps many rows again moves what is near its top out of reach.
    let narrow = [(33, 22), (61, 40)];
    for (history, sizes) in [(3, sizes.to_vec()), (40, [&sizes[..4], &narrow].concat())] {
        let args = ["replay", &file, "--delay", "40"];
        let mut terminal = Terminal::run(&args, &[], history, 100, 30);
        for (columns, rows) in sizes {
            terminal.resize(columns, rows);
            // The frame in progress when the size changed, and one of the new size.
            for _ in 0..3 {
                assert!(terminal.next_frame());
            }
            let text = [terminal.above(), terminal.region()].concat().concat();
            assert_eq!(
                text.matches("] canvas").count(),
                1,
                "{columns}x{rows}: {text}"
            );
            let region = terminal.region();
            assert!(
                region[0].starts_with(
                    words
                        .map(str::trim_end)
                        .iter()
                        .find(|w| region[0].starts_with(**w))
                        .unwrap()
                )
            );
            assert_eq!(terminal.above(), earlier(history), "{columns}x{rows}");
        }
        assert_eq!(terminal.finish(), 0);
        terminal.assert_restored();
        let lines = terminal.lines();
        assert_eq!(lines[..history], earlier(history));
        assert_eq!(
            lines[history..].concat(),
            drafts.last().unwrap().concat().trim_end()
        );
    }
}

#[test]
fn signals_leave_the_terminal_as_it_was() {
    // A confidence that no canvas reaches keeps it busy for seconds.
    let endless = ["-n", "-1", "--diffusion-eb-confidence", "1e-30"];
    for (signal, status) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let mut terminal = Terminal::run(&ask(QUESTION, &endless), &[], 5, 80, 24);
        for _ in 0..3 {
            assert!(terminal.next_frame());
        }
        terminal.pty.signal(signal);
        assert_eq!(terminal.finish(), status);
        terminal.assert_restored();
        terminal.assert_lines(5, &[NOTICE, SUMMARY[0], SUMMARY[1], SUMMARY[2]]);
    }
}

/// A stopped program leaves the terminal to the shell, and uses it again when it is resumed.
#[test]
#[cfg(target_os = "linux")] // where it is easy to see that a process is stopped
fn ctrl_z_shows_the_cursor_until_the_answer_goes_on() {
    let endless = ["-n", "-1", "--diffusion-eb-confidence", "1e-30"];
    let mut terminal = Terminal::run(&ask(QUESTION, &endless), &[], 5, 80, 24);
    for _ in 0..3 {
        assert!(terminal.next_frame());
    }
    let stat = format!("/proc/{}/stat", terminal.pty.process_id());
    let is_stopped = || fs::read_to_string(&stat).unwrap().contains(") T ");
    for _ in 0..2 {
        terminal.pty.signal("-TSTP");
        let stops = (0..2000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            is_stopped()
        });
        assert!(stops, "it goes on");
        while let Ok(bytes) = terminal.pty.output.recv_timeout(Duration::from_millis(200)) {
            terminal.pending.extend(bytes);
        }
        terminal.show();
        terminal.assert_restored();
        terminal.pty.signal("-CONT");
        assert!(terminal.next_frame());
        assert!(!terminal.term.mode().contains(TermMode::SHOW_CURSOR));
    }
    terminal.pty.signal("-INT");
    assert_eq!(terminal.finish(), 130);
    terminal.assert_restored();
}

#[test]
fn ctrl_c_ends_a_replay_at_once() {
    let dir = TempDir::new().unwrap();
    let file = recording(&dir, &vec![vec!["word "; 30]; 500]);
    let mut terminal = Terminal::run(&["replay", &file, "--delay", "20"], &[], 5, 40, 24);
    for _ in 0..3 {
        assert!(terminal.next_frame());
    }
    // As the terminal sends it when the key is pressed, and echoes. A writer that is dropped sends
    // more.
    let mut keys = terminal.pty.master.take_writer().unwrap();
    keys.write_all(b"\x03").unwrap();
    assert_eq!(terminal.finish(), 130);
    terminal.assert_restored();
    assert_eq!(terminal.lines(), earlier(5));
}

#[test]
fn noise_comes_first_and_a_delay_is_not_counted() {
    let delay = ["--diffusion-visual-delay", "700"];
    let begin = Instant::now();
    let mut terminal = Terminal::run(&ask(QUESTION, &delay), &[], 0, 80, 24);
    assert!(terminal.next_frame());
    let region = terminal.region();
    assert!(
        region
            .iter()
            .any(|row| row.contains("canvas 1, step 0 of 48: 0 of 32 tokens accepted")),
        "{region:#?}"
    );
    assert!(!region.concat().contains(ANSWER), "{region:#?}");
    assert_eq!(terminal.finish(), 0);
    let total = begin.elapsed();
    let summary = terminal.lines().concat();
    let millis: f64 = summary
        .split("total time: ")
        .nth(1)
        .and_then(|rest| rest.split("ms").next())
        .unwrap()
        .parse()
        .unwrap();
    let steps = summary.split(" steps over").next().unwrap();
    let steps: u32 = steps.rsplit('(').next().unwrap().parse().unwrap();
    let pauses = Duration::from_millis(700) * (steps + 1);
    assert!(total >= pauses + Duration::from_secs_f64(millis / 1e3));
    assert!(
        millis < pauses.as_secs_f64() * 1e3,
        "{millis} ms, {pauses:?}"
    );
}

#[test]
fn ctrl_c_ends_a_pause_at_once() {
    let delay = ["--diffusion-visual-delay", "600000"];
    let mut terminal = Terminal::run(&ask(QUESTION, &delay), &[], 5, 80, 24);
    assert!(terminal.next_frame());
    terminal.pty.signal("-INT");
    let begin = Instant::now();
    assert_eq!(terminal.finish(), 130);
    assert!(begin.elapsed() < Duration::from_secs(60));
    terminal.assert_restored();
}

#[test]
fn plain_lines_where_colours_or_a_screen_are_missing() {
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut terminal = Terminal::run(
            &ask(QUESTION, &["--color", "auto"]),
            &[variable],
            0,
            120,
            60,
        );
        assert_eq!(terminal.finish(), 0);
        let lines = terminal.lines();
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with("canvas 1, step 1 of ")),
            "{variable:?}: {lines:#?}"
        );
        assert!(lines.contains(&ANSWER.to_owned()), "{lines:#?}");
        let escapes = terminal
            .written
            .windows(2)
            .filter(|bytes| bytes == b"\x1b[");
        // The bar of loading moves the cursor, on any terminal.
        let drawing = terminal
            .written
            .windows(4)
            .filter(|bytes| bytes == b"\x1b[?2");
        assert_eq!(drawing.count(), 0, "{} escapes", escapes.count());
    }
}

#[test]
fn lines_about_steps_do_not_stand_in_the_line_of_the_answer() {
    for (more, variable) in [
        (&[][..], ("NO_COLOR", "1")),
        (&[], ("TERM", "dumb")),
        (&["-v"], ("LANG", "C")),
    ] {
        let mut terminal = Terminal::run(&ask(STORY, more), &[variable], 0, 400, 300);
        assert_eq!(terminal.finish(), 0);
        let lines = terminal.lines();
        assert!(
            lines.iter().any(|line| line.starts_with("canvas 2, step ")),
            "{lines:#?}"
        );
        let glued = lines
            .iter()
            .find(|line| line.contains(", step ") && !line.starts_with("canvas "));
        assert_eq!(glued, None, "{variable:?}");
        let stories = lines
            .iter()
            .filter(|line| line.starts_with("One Sunday, Grace "));
        assert!(
            stories.clone().all(|story| story.ends_with('.')),
            "{lines:#?}"
        );
        assert_eq!(stories.count(), 1, "{lines:#?}");
    }
}

#[test]
fn a_prompt_that_is_typed_is_asked_for() {
    let mut terminal = Terminal::run(&["-t", "1", "-s", "1", "-st"], &[], 0, 120, 24);
    let mut keys = terminal.pty.master.take_writer().unwrap();
    keys.write_all(format!("{QUESTION}\n\x04").as_bytes())
        .unwrap();
    assert_eq!(terminal.finish(), 0);
    let lines = terminal.lines();
    assert!(
        lines.iter().any(|line| line.contains("Ctrl-D")),
        "{lines:#?}"
    );
    assert!(lines.contains(&ANSWER.to_owned()), "{lines:#?}");
}

#[test]
fn what_is_typed_and_not_utf_8_does_not_end_a_chat() {
    let mut terminal = Terminal::run(&["-t", "1", "-s", "1", "-cnv"], &[], 0, 120, 24);
    let mut keys = terminal.pty.master.take_writer().unwrap();
    terminal.await_text("> ", 1);
    keys.write_all(b"caf\xe9\r").unwrap();
    terminal.await_text("what was typed is not UTF-8", 1);
    // A line for each prompt: text that is typed ahead is lost.
    terminal.await_text("> ", 2);
    keys.write_all(format!("{QUESTION}\r").as_bytes()).unwrap();
    terminal.await_text("seed: 1", 1);
    keys.write_all(b"/exit\r").unwrap();
    assert_eq!(terminal.finish(), 0);
    let lines = terminal.lines();
    assert!(lines.contains(&ANSWER.to_owned()), "{lines:#?}");
}

#[test]
fn the_bar_of_loading_is_part_of_the_log() {
    for (flag, is_shown) in [("--log-disable", false), ("--log-colors=on", true)] {
        let args = ["-t", "1", "-s", "1", "-n", "4", "-p", QUESTION, flag];
        let mut terminal = Terminal::run(&args, &[], 0, 100, 20);
        while terminal.next_frame() {}
        let written = String::from_utf8_lossy(&terminal.written);
        assert_eq!(written.contains("loading ["), is_shown, "{flag}: {written}");
    }
}
