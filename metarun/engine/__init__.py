"""The compiled programs: meta-steps and evaluation, how many tasks they take at once, and the machine they run on."""

from metarun.engine import hosts
from metarun.engine.chunks import (
    OutOfMemory,
    Training,
    choose_chunk,
    first_state,
    must_fit,
    shapes_of_first_state,
    sizes,
    until_it_fits,
)
from metarun.engine.compiled import Program, ahead, compiling_ahead, described, shape_of
from metarun.engine.evaluate import Answers, Asked, Evaluation, Figures, Inductive, mean_and_interval
from metarun.engine.gathered import at
from metarun.engine.hardware import Hardware, prepare
from metarun.engine.kept import beside, kept_by, size_of
from metarun.engine.keys import EVAL, INIT, TRAIN, VAL, of_evaluation, of_meta_step, stream, task_key
from metarun.engine.memory import free_host_bytes
from metarun.engine.meta_step import Guard, Report
from metarun.engine.net import check_shapes, episode_size, input_of, is_transductive, net_for
from metarun.engine.private import MOST_OVERFLOW, Private, among, episode_of, task_keys
from metarun.engine.program import Programs, Shape, content_of, nets, numbers_of, programs, without_numbers
from metarun.engine.selection import Selection, must_be_whole
from metarun.engine.send import copied, placed, put, send, sums_at_zero
from metarun.engine.source import (
    Source,
    for_episodes,
    held,
    in_parts,
    is_on_host,
    must_have_examples,
    of_classes,
    stand_in,
)
from metarun.engine.speed import gflop, measure
from metarun.engine.together import at_zero, cut, of_members, stacked

__all__ = [
    "EVAL", "INIT", "MOST_OVERFLOW", "TRAIN", "VAL", "Answers", "Asked", "Evaluation", "Figures", "Guard", "Hardware",
    "Inductive", "OutOfMemory", "Private", "Program", "Programs", "Report", "Selection", "Shape", "Source", "Training",
    "ahead", "among", "at", "at_zero", "beside", "check_shapes", "choose_chunk", "compiling_ahead", "content_of",
    "copied", "cut", "described", "episode_of", "episode_size", "first_state", "for_episodes", "free_host_bytes",
    "gflop", "held", "hosts", "in_parts", "input_of", "is_on_host", "is_transductive", "kept_by", "mean_and_interval",
    "measure", "must_be_whole", "must_fit", "must_have_examples", "net_for", "nets", "numbers_of", "of_classes",
    "of_evaluation", "of_members", "of_meta_step", "placed", "prepare", "programs", "put", "send", "shape_of",
    "shapes_of_first_state", "size_of", "sizes", "stacked", "stand_in", "stream", "sums_at_zero", "task_key",
    "task_keys", "until_it_fits", "without_numbers",
]  # fmt: skip
