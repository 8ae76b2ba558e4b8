"""The native code of the thread pool, as LLVM text: how threads wait for each other and walk a program.

Thread 0 is the caller. It walks the program's records: a serial record it runs by itself; a span of parallel
ones it publishes to the workers, runs its own share of and, before the next record that depends on them,
waits until every worker has arrived. So all decisions are taken in one place (what comes next, whether an
error ends the run), a serial kernel costs the workers nothing, and a program without parallel records does
not wake them.

Whoever waits spins with the processor's pause hint for a while, then sleeps in the operating system, so that
a machine with fewer free cores than threads does not crawl. No wake-up is lost: a sleeper announces itself
before it reads the word again, and the word is changed before the announcements are read, all sequentially
consistent.

Ctrl-C: Python's own handler only notes the signal, and Python looks at the note when the call has returned. So
`run_interruptible` puts a handler before Python's that also tells thread 0, which ends the run before the next
record.
"""

from __future__ import annotations

# Flags of a record.
SERIAL = 1  # thread 0 alone runs it
JOIN = 2  # all earlier records must have ended
GUARD = 4  # the run ends here if an error was recorded; comes with JOIN
LOOP = 8  # the end of a loop's body, back to its begin until it has run often enough; comes with SERIAL and JOIN
JUMP = 16  # on with record `target` unless the byte at the operand is non-zero; comes with SERIAL and JOIN

RECORD_BYTES = 32
SLOT_BYTES = 16
LOOP_BYTES = 48
POOL_BYTES = 640

# Words of a call block (8 bytes each): the error record, a zero, then the bases.
CALL_ERROR_SITE = 0
CALL_ERROR_VALUE = 1
INTERRUPTED = -1  # in place of a site: Ctrl-C ended the run
CALL_BASES = 2
ABSOLUTE_BASE = 0  # always zero: a slot with this base holds an address
ARENA_BASE = 1
FIRST_FREE_BASE = 2

_TYPES = """
; What threads meet on; words that different threads write are 128 bytes apart (processors fetch lines in
; pairs).
;  0 epoch: changed to let the workers go       1 threads
;  2 first record of the span                    3 records in the span
;  4 scratch of thread 0                         5 scratch bytes of a thread        6 error record
;  8 arrived: workers that ended the span       10 workers asleep on epoch        12 thread 0 asleep on it
; 14 spins before sleep                         15 workers shall end
%pool = type { i32, i32, ptr, i64, ptr, i64, ptr, [80 x i8],
               i32, [124 x i8], i32, [124 x i8], i32, [124 x i8], i32, i32 }

; 0 function (at the end of a loop: the %loop), 1 operand pointers (of a jump without condition: null), 2 flags,
; 3 length of the span: parallel records from here without a join, 4 target of a jump
%record = type { ptr, ptr, i32, i32, i64 }

; An operand pointer is bases[base] + offset.
%slot = type { i64, i64 }

; 0 records, 1 their number, 2 slots, 3 their number, 4 operand pointers (one a slot), 5 loops, 6 their number
%program = type { ptr, i64, ptr, i64, ptr, ptr, i64 }

; A loop over consecutive records: 0 how often it runs, 1 how often it has, 2 its first record, 3 operand pointers of
; its body, 4 their number, 5 by how much each moves from one time to the next (bytes, one i64 a pointer).
%loop = type { i64, i64, i64, ptr, i64, ptr }

; What a worker is started with.
%start = type { ptr, i64, i32 }
"""

# LLVM's spelling of the hint that a thread is spinning, by architecture.
_PAUSES = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}
_NO_PAUSE = ("declare void @llvm.donothing()", "call void @llvm.donothing()")

# Number of Linux's futex system call, by architecture.
_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}

_MONOTONIC_CLOCK = {"linux": 1, "darwin": 6}

_FUTEX_SLEEP = """
declare i64 @syscall(i64, ...)

; Sleeps until woken, if the word holds the value (operation 128 is FUTEX_WAIT_PRIVATE).
define internal void @sleep_while(ptr %word, i32 %value) noinline {
  %r = call i64 (i64, ...) @syscall(i64 FUTEX, ptr %word, i32 128, i32 %value, ptr null, ptr null, i32 0)
  ret void
}

; Wakes all who sleep on the word (operation 129 is FUTEX_WAKE_PRIVATE).
define internal void @wake_all(ptr %word) noinline {
  %r = call i64 (i64, ...) @syscall(i64 FUTEX, ptr %word, i32 129, i32 2147483647, ptr null, ptr null, i32 0)
  ret void
}
"""

# Where there is no futex: look again every 100 microseconds.
_POLL_SLEEP = """
declare i32 @usleep(i32)

define internal void @sleep_while(ptr %word, i32 %value) noinline {
  %r = call i32 @usleep(i32 100)
  ret void
}

define internal void @wake_all(ptr %word) noinline {
  ret void
}
"""

_WAITING = """
; Pauses `count` times: tells Python how long a pause is.
define void @spin(i64 %count) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  PAUSE
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %end
end:
  ret void
}

; Waits until the word is not `value` and returns it. `sleepers` counts who sleeps on the word.
define internal i32 @wait_while(ptr %word, i32 %value, ptr %sleepers, i32 %spins) noinline {
entry:
  br label %look
look:
  %i = phi i32 [ 0, %entry ], [ %next, %again ]
  %seen = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %seen, %value
  br i1 %same, label %again, label %changed
again:
  PAUSE
  %next = add i32 %i, 1
  %more = icmp slt i32 %next, %spins
  br i1 %more, label %look, label %announce
announce:
  %before = atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %check
check:
  %now = load atomic i32, ptr %word seq_cst, align 4
  %still = icmp eq i32 %now, %value
  br i1 %still, label %sleep, label %awake
sleep:
  call void @sleep_while(ptr %word, i32 %value)
  br label %check
awake:
  %after = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  ret i32 %now
changed:
  ret i32 %seen
}

; Wakes those who sleep on the word, if any do. The word must have been changed before, sequentially
; consistent.
define internal void @wake(ptr %word, ptr %sleepers) {
  %count = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %count, 0
  br i1 %any, label %wake, label %end
wake:
  call void @wake_all(ptr %word)
  br label %end
end:
  ret void
}

; Lets the workers go. The change of the epoch publishes all that was written before it.
define internal void @release(ptr %pool) {
  %sleepers = getelementptr %pool, ptr %pool, i32 0, i32 10
  %epoch = atomicrmw add ptr %pool, i32 1 seq_cst
  call void @wake(ptr %pool, ptr %sleepers)
  ret void
}

; Thread 0: waits until all workers have arrived, and clears the count for the next span.
define internal void @gather(ptr %pool) {
entry:
  %threads.p = getelementptr %pool, ptr %pool, i32 0, i32 1
  %arrived.p = getelementptr %pool, ptr %pool, i32 0, i32 8
  %asleep.p = getelementptr %pool, ptr %pool, i32 0, i32 12
  %spins.p = getelementptr %pool, ptr %pool, i32 0, i32 14
  %threads = load i32, ptr %threads.p
  %spins = load i32, ptr %spins.p
  %workers = sub i32 %threads, 1
  br label %look
look:
  %arrived = load atomic i32, ptr %arrived.p acquire, align 4
  %all = icmp eq i32 %arrived, %workers
  br i1 %all, label %end, label %wait
wait:
  %new = call i32 @wait_while(ptr %arrived.p, i32 %arrived, ptr %asleep.p, i32 %spins)
  br label %look
end:
  store atomic i32 0, ptr %arrived.p monotonic, align 4
  ret void
}

; Runs this thread's share of `count` records.
define internal void @run_span(ptr %records, i64 %count, i64 %thread, i64 %threads,
                               ptr %scratch, ptr %error) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %function.p = getelementptr %record, ptr %records, i64 %i, i32 0
  %operands.p = getelementptr %record, ptr %records, i64 %i, i32 1
  %function = load ptr, ptr %function.p
  %operands = load ptr, ptr %operands.p
  call void %function(ptr %operands, i64 %thread, i64 %threads, ptr %scratch, ptr %error)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %end
end:
  ret void
}

; The life of a worker, begun by pthread_create.
define ptr @worker(ptr %start) {
entry:
  %thread.p = getelementptr %start, ptr %start, i32 0, i32 1
  %epoch.p = getelementptr %start, ptr %start, i32 0, i32 2
  %pool = load ptr, ptr %start
  %thread = load i64, ptr %thread.p
  %first.epoch = load i32, ptr %epoch.p
  %threads.p = getelementptr %pool, ptr %pool, i32 0, i32 1
  %records.p = getelementptr %pool, ptr %pool, i32 0, i32 2
  %count.p = getelementptr %pool, ptr %pool, i32 0, i32 3
  %scratch.p = getelementptr %pool, ptr %pool, i32 0, i32 4
  %stride.p = getelementptr %pool, ptr %pool, i32 0, i32 5
  %error.p = getelementptr %pool, ptr %pool, i32 0, i32 6
  %arrived.p = getelementptr %pool, ptr %pool, i32 0, i32 8
  %sleepers = getelementptr %pool, ptr %pool, i32 0, i32 10
  %asleep0.p = getelementptr %pool, ptr %pool, i32 0, i32 12
  %spins.p = getelementptr %pool, ptr %pool, i32 0, i32 14
  %exit.p = getelementptr %pool, ptr %pool, i32 0, i32 15
  %threads32 = load i32, ptr %threads.p
  %threads = zext i32 %threads32 to i64
  %workers = sub i32 %threads32, 1
  %spins = load i32, ptr %spins.p
  br label %wait
wait:
  %old = phi i32 [ %first.epoch, %entry ], [ %epoch, %work ], [ %epoch, %last ]
  %epoch = call i32 @wait_while(ptr %pool, i32 %old, ptr %sleepers, i32 %spins)
  %exit = load i32, ptr %exit.p
  %ends = icmp ne i32 %exit, 0
  br i1 %ends, label %end, label %work
work:
  %records = load ptr, ptr %records.p
  %count = load i64, ptr %count.p
  %scratch0 = load ptr, ptr %scratch.p
  %stride = load i64, ptr %stride.p
  %error = load ptr, ptr %error.p
  %distance = mul i64 %stride, %thread
  %scratch = getelementptr i8, ptr %scratch0, i64 %distance
  call void @run_span(ptr %records, i64 %count, i64 %thread, i64 %threads, ptr %scratch, ptr %error)
  %before = atomicrmw add ptr %arrived.p, i32 1 seq_cst
  %now = add i32 %before, 1
  %is.last = icmp eq i32 %now, %workers
  br i1 %is.last, label %last, label %wait
last:
  call void @wake(ptr %arrived.p, ptr %asleep0.p)
  br label %wait
end:
  ret ptr null
}

; Asks the workers to end; the caller joins them.
define void @dismiss(ptr %pool) {
  %exit.p = getelementptr %pool, ptr %pool, i32 0, i32 15
  store i32 1, ptr %exit.p
  call void @release(ptr %pool)
  ret void
}
"""

# NAME, and in the timed walker the bracketed pieces, are filled in below.
_WALK = """
; Runs a program and returns the error's site (0: none). `call` is the call block: error record, then bases.
define i64 @NAME(ptr %pool, ptr %program, ptr %call, ptr %times) {
entry:
  %records.p = getelementptr %program, ptr %program, i32 0, i32 0
  %count.p = getelementptr %program, ptr %program, i32 0, i32 1
  %slots.p = getelementptr %program, ptr %program, i32 0, i32 2
  %slot.count.p = getelementptr %program, ptr %program, i32 0, i32 3
  %operands.p = getelementptr %program, ptr %program, i32 0, i32 4
  %records = load ptr, ptr %records.p
  %count = load i64, ptr %count.p
  %slots = load ptr, ptr %slots.p
  %slot.count = load i64, ptr %slot.count.p
  %all.operands = load ptr, ptr %operands.p
  %loops.p = getelementptr %program, ptr %program, i32 0, i32 5
  %loop.count.p = getelementptr %program, ptr %program, i32 0, i32 6
  %loops = load ptr, ptr %loops.p
  %loop.count = load i64, ptr %loop.count.p
  %bases = getelementptr i64, ptr %call, i64 2
  %any.loops = icmp ne i64 %loop.count, 0
  br i1 %any.loops, label %rewind, label %rewound

rewind:                                           ; a run that was stopped may have left a loop half-way
  %l = phi i64 [ 0, %entry ], [ %l.next, %rewind ]
  %done.p = getelementptr %loop, ptr %loops, i64 %l, i32 1
  store i64 0, ptr %done.p
  %l.next = add i64 %l, 1
  %l.more = icmp slt i64 %l.next, %loop.count
  br i1 %l.more, label %rewind, label %rewound

rewound:
  %any.slots = icmp ne i64 %slot.count, 0
  br i1 %any.slots, label %resolve, label %prepare

resolve:
  %s = phi i64 [ 0, %rewound ], [ %s.next, %resolve ]
  %base.index.p = getelementptr %slot, ptr %slots, i64 %s, i32 0
  %offset.p = getelementptr %slot, ptr %slots, i64 %s, i32 1
  %base.index = load i64, ptr %base.index.p
  %offset = load i64, ptr %offset.p
  %base.p = getelementptr i64, ptr %bases, i64 %base.index
  %base = load i64, ptr %base.p
  %address = add i64 %base, %offset
  %operand.p = getelementptr i64, ptr %all.operands, i64 %s
  store i64 %address, ptr %operand.p
  %s.next = add i64 %s, 1
  %s.more = icmp slt i64 %s.next, %slot.count
  br i1 %s.more, label %resolve, label %prepare

prepare:
  %threads.p = getelementptr %pool, ptr %pool, i32 0, i32 1
  %span.p = getelementptr %pool, ptr %pool, i32 0, i32 2
  %span.count.p = getelementptr %pool, ptr %pool, i32 0, i32 3
  %scratch.p = getelementptr %pool, ptr %pool, i32 0, i32 4
  %error.p = getelementptr %pool, ptr %pool, i32 0, i32 6
  %threads32 = load i32, ptr %threads.p
  %threads = zext i32 %threads32 to i64
  %shared = icmp ne i32 %threads32, 1
  %scratch = load ptr, ptr %scratch.p
  store ptr %call, ptr %error.p
  TIME_START
  br label %next

next:                                             ; `open`: workers may still be at a span
  %i = phi i64 [ 0, %prepare ], [ %i.serial, %serial.end ], [ %i.parallel, %parallel.end ], [ %i.loop, %loop.end ],
              [ %i.jump, %jump.end ]
  %open = phi i1 [ false, %prepare ], [ %open.here, %serial.end ], [ OPEN_AFTER, %parallel.end ],
                 [ false, %loop.end ], [ false, %jump.end ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %record, label %finish

record:
  %this = getelementptr %record, ptr %records, i64 %i
  %function.p = getelementptr %record, ptr %this, i32 0, i32 0
  %record.operands.p = getelementptr %record, ptr %this, i32 0, i32 1
  %flags.p = getelementptr %record, ptr %this, i32 0, i32 2
  %length.p = getelementptr %record, ptr %this, i32 0, i32 3
  %flags = load i32, ptr %flags.p
  %serial.bit = and i32 %flags, 1
  %is.serial = icmp ne i32 %serial.bit, 0
  %join.bit = and i32 %flags, 2
  %is.join = icmp ne i32 %join.bit, 0
  %is.parallel = xor i1 %is.serial, true          ; begins a span, for which the workers must be there
  %joins = or i1 %is.join, %is.parallel
  %must.gather = and i1 %joins, %open
  br i1 %must.gather, label %join, label %joined
join:
  call void @gather(ptr %pool)
  br label %joined

joined:
  %open.here = phi i1 [ %open, %record ], [ false, %join ]
  %stop = load atomic i32, ptr @interrupted monotonic, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %interrupt, label %unbroken
interrupt:
  store i64 -1, ptr %call
  br label %finish

unbroken:
  %guard.bit = and i32 %flags, 4
  %guarded = icmp ne i32 %guard.bit, 0
  br i1 %guarded, label %guard, label %go
guard:
  %site.now = load i64, ptr %call
  %failed = icmp ne i64 %site.now, 0
  br i1 %failed, label %finish, label %go

go:
  %control.bits = and i32 %flags, 24
  %is.control = icmp ne i32 %control.bits, 0
  br i1 %is.control, label %control, label %kernel
control:
  %behind = add i64 %i, 1
  %loop.bit = and i32 %flags, 8
  %is.loop = icmp ne i32 %loop.bit, 0
  br i1 %is.loop, label %loop, label %jump

jump:
  %target.p = getelementptr %record, ptr %this, i32 0, i32 4
  %target = load i64, ptr %target.p
  %condition.p = load ptr, ptr %record.operands.p
  %no.condition = icmp eq ptr %condition.p, null
  br i1 %no.condition, label %jump.end, label %look
look:
  %condition = load ptr, ptr %condition.p
  %byte = load i8, ptr %condition
  %holds = icmp ne i8 %byte, 0
  br label %jump.end
jump.end:
  %stays = phi i1 [ false, %jump ], [ %holds, %look ]
  %i.jump = select i1 %stays, i64 %behind, i64 %target
  TIME_JUMP
  br label %next

kernel:
  br i1 %is.serial, label %serial, label %parallel

loop:                                             ; once more with every operand moved on, or on with all moved back
  %this.loop = load ptr, ptr %function.p
  %times.p = getelementptr %loop, ptr %this.loop, i32 0, i32 0
  %ran.p = getelementptr %loop, ptr %this.loop, i32 0, i32 1
  %begin.p = getelementptr %loop, ptr %this.loop, i32 0, i32 2
  %moved.p = getelementptr %loop, ptr %this.loop, i32 0, i32 3
  %moved.count.p = getelementptr %loop, ptr %this.loop, i32 0, i32 4
  %strides.p = getelementptr %loop, ptr %this.loop, i32 0, i32 5
  %repeats = load i64, ptr %times.p
  %ran = load i64, ptr %ran.p
  %begin = load i64, ptr %begin.p
  %moved = load ptr, ptr %moved.p
  %moved.count = load i64, ptr %moved.count.p
  %strides = load ptr, ptr %strides.p
  %ran.now = add i64 %ran, 1
  %again = icmp slt i64 %ran.now, %repeats
  %ran.kept = select i1 %again, i64 %ran.now, i64 0
  store i64 %ran.kept, ptr %ran.p
  %i.loop = select i1 %again, i64 %begin, i64 %behind
  %all.back = sub i64 1, %repeats
  %by = select i1 %again, i64 1, i64 %all.back
  %any.moved = icmp ne i64 %moved.count, 0
  br i1 %any.moved, label %move, label %loop.moved
move:
  %m = phi i64 [ 0, %loop ], [ %m.next, %move ]
  %stride.p = getelementptr i64, ptr %strides, i64 %m
  %place.p = getelementptr i64, ptr %moved, i64 %m
  %stride.here = load i64, ptr %stride.p
  %place = load i64, ptr %place.p
  %way = mul i64 %stride.here, %by
  %new.place = add i64 %place, %way
  store i64 %new.place, ptr %place.p
  %m.next = add i64 %m, 1
  %m.more = icmp slt i64 %m.next, %moved.count
  br i1 %m.more, label %move, label %loop.moved
loop.moved:
  TIME_LOOP
  br label %loop.end
loop.end:
  br label %next

serial:
  %function = load ptr, ptr %function.p
  %operands = load ptr, ptr %record.operands.p
  call void %function(ptr %operands, i64 0, i64 1, ptr %scratch, ptr %call)
  %i.serial = add i64 %i, 1
  TIME_SERIAL
  br label %serial.end
serial.end:
  br label %next

parallel:
  LENGTH
  br i1 %shared, label %publish, label %share
publish:
  store ptr %this, ptr %span.p
  store i64 %length, ptr %span.count.p
  call void @release(ptr %pool)
  br label %share
share:
  call void @run_span(ptr %this, i64 %length, i64 0, i64 %threads, ptr %scratch, ptr %call)
  %i.parallel = add i64 %i, %length
  TIME_PARALLEL
  br label %parallel.end
parallel.end:
  br label %next

finish:
  %open.last = phi i1 [ %open, %next ], [ %open.here, %guard ], [ %open.here, %interrupt ]
  br i1 %open.last, label %last.join, label %end
last.join:
  call void @gather(ptr %pool)
  br label %end
end:
  %site = load i64, ptr %call
  ret i64 %site
}
"""

_CLOCK = """
declare i32 @clock_gettime(i32, ptr)

; Nanoseconds since some moment in the past, stored to times[i].
define internal void @record_time(ptr %times, i64 %i) {
  %t = alloca { i64, i64 }
  %r = call i32 @clock_gettime(i32 CLOCK, ptr %t)
  %nanoseconds.p = getelementptr { i64, i64 }, ptr %t, i32 0, i32 1
  %seconds = load i64, ptr %t
  %nanoseconds = load i64, ptr %nanoseconds.p
  %scaled = mul i64 %seconds, 1000000000
  %sum = add i64 %scaled, %nanoseconds
  %time.p = getelementptr i64, ptr %times, i64 %i
  store i64 %sum, ptr %time.p
  ret void
}
"""

_PLAIN_PIECES = {
    "NAME": "run",
    "TIME_START": "",
    "TIME_SERIAL": "",
    "TIME_PARALLEL": "",
    "TIME_LOOP": "",
    "TIME_JUMP": "",
    "OPEN_AFTER": "%shared",
    "LENGTH": "%length32 = load i32, ptr %length.p\n  %length = zext i32 %length32 to i64",
}

# The timed walker runs parallel records one by one and gathers after each, so that a time belongs to one
# record.
_TIMED_PIECES = {
    "NAME": "run_timed",
    "TIME_START": "call void @record_time(ptr %times, i64 0)",
    "TIME_SERIAL": "call void @record_time(ptr %times, i64 %i.serial)",
    "TIME_PARALLEL": """br i1 %shared, label %timed.join, label %timed.end
timed.join:
  call void @gather(ptr %pool)
  br label %timed.end
timed.end:
  call void @record_time(ptr %times, i64 %i.parallel)""",
    "TIME_LOOP": "call void @record_time(ptr %times, i64 %behind)",
    "TIME_JUMP": "call void @record_time(ptr %times, i64 %behind)",
    "OPEN_AFTER": "false",
    "LENGTH": "%length = add i64 0, 1",
}

_NEVER_INTERRUPTED = """
@interrupted = internal global i32 0

define i64 @run_interruptible(ptr %pool, ptr %program, ptr %call, ptr %times) {
  %site = call i64 @run(ptr %pool, ptr %program, ptr %call, ptr %times)
  ret i64 %site
}
"""

# The first field of a `struct sigaction` is the handler, here and there; the rest is only copied.
_INTERRUPTIBLE = """
@interrupted = internal global i32 0
@handler.before = internal global ptr null

declare i32 @sigaction(i32, ptr, ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

; Passes on all that a handler may be given; one that takes less ignores the rest.
define internal void @on_interrupt(i32 %signal, ptr %info, ptr %context) {
  store atomic i32 1, ptr @interrupted monotonic, align 4
  %before = load ptr, ptr @handler.before
  call void %before(i32 %signal, ptr %info, ptr %context)
  ret void
}

; As run, until Ctrl-C (signal 2): then INTERRUPTED. For thread 0 on the main thread only, as the handler belongs
; to the whole process. Where the signal is ignored or kills (handlers 1 and 0), it stays so.
define i64 @run_interruptible(ptr %pool, ptr %program, ptr %call, ptr %times) {
entry:
  %old = alloca [512 x i8], align 16
  %new = alloca [512 x i8], align 16
  %asked = call i32 @sigaction(i32 2, ptr null, ptr %old)
  %handler = load ptr, ptr %old
  %handler.number = ptrtoint ptr %handler to i64
  %is.function = icmp ugt i64 %handler.number, 1
  br i1 %is.function, label %install, label %plain
install:
  call void @llvm.memcpy.p0.p0.i64(ptr %new, ptr %old, i64 512, i1 false)
  store ptr @on_interrupt, ptr %new
  store ptr %handler, ptr @handler.before
  %installed = call i32 @sigaction(i32 2, ptr %new, ptr null)
  %site = call i64 @run(ptr %pool, ptr %program, ptr %call, ptr %times)
  %restored = call i32 @sigaction(i32 2, ptr %old, ptr null)
  store atomic i32 0, ptr @interrupted monotonic, align 4
  ret i64 %site
plain:
  %site.plain = call i64 @run(ptr %pool, ptr %program, ptr %call, ptr %times)
  ret i64 %site.plain
}
"""

FUNCTIONS = ("spin", "worker", "dismiss", "run", "run_interruptible", "run_timed")


def text(system: str, machine: str, futex: bool = True) -> str:
    """The LLVM module for an operating system (`sys.platform`) and architecture; it defines `FUNCTIONS`.

    futex=False: let waiting threads poll even where the system could wake them.
    """
    declaration, pause = _PAUSES.get(machine, _NO_PAUSE)
    if futex and system == "linux" and machine in _FUTEX:
        sleep = _FUTEX_SLEEP.replace("FUTEX,", f"{_FUTEX[machine]},")
    else:
        sleep = _POLL_SLEEP
    clock = _CLOCK.replace("CLOCK,", f"{_MONOTONIC_CLOCK.get(system, 1)},")
    walks = [_fill(_WALK, _PLAIN_PIECES), _fill(_WALK, _TIMED_PIECES)]
    interruption = _INTERRUPTIBLE if system in ("linux", "darwin") else _NEVER_INTERRUPTED
    waiting = _WAITING.replace("PAUSE", pause)
    return "\n".join([_TYPES, declaration, sleep, clock, waiting, interruption, *walks])


def _fill(template: str, pieces: dict[str, str]) -> str:
    for name, piece in pieces.items():
        template = template.replace(name, piece)
    return template
