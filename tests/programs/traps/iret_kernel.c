// cowbird: description = iret from kernel to kernel: registers, flags, the event mask, rcx and r11
/*
 * struct iret_context on the stack: rax, r11, rcx, flags, rip, cs, rflags, rsp, ss. IF of rflags is
 * the virtual one: clear means events are masked afterwards. VGCF_in_syscall goes back by SYSRET,
 * which leaves rcx = rip and r11 = rflags (Xen: do_iret).
 */

#include "frame.h"

struct seen {
    uint64_t rax, rcx, r11, rflags, rsp, rbx;
};
struct seen seen;
struct iret_context context;
extern char landed[];
void do_iret(void *unused);

/* Copies `context` below the stack and returns by it; what is found there goes into `seen`. */
__asm__("do_iret:\n"
        "    push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
        "    mov  %rsp, saved_rsp(%rip)\n"
        "    mov  $0x7777, %ebx\n"
        "    sub  $72, %rsp\n"
        "    mov  %rsp, %rdi\n"
        "    lea  context(%rip), %rsi\n"
        "    mov  $9, %ecx\n"
        "    cld\n"
        "    rep  movsq\n"
        "    mov  $23, %eax\n"
        "    syscall\n"
        "    ud2\n"
        "landed:\n"
        "    mov  %rax, seen(%rip)\n"
        "    mov  %rcx, seen+8(%rip)\n"
        "    mov  %r11, seen+16(%rip)\n"
        "    mov  %rsp, seen+32(%rip)\n"
        "    mov  %rbx, seen+40(%rip)\n"
        "    mov  saved_rsp(%rip), %rsp\n"
        "    pushfq\n"
        "    popq seen+24(%rip)\n"
        "    cld\n"
        "    pop  %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "    ret\n"
        ".bss; saved_rsp: .skip 8; .text\n");

static void go(uint64_t how, uint64_t cs, uint64_t rflags)
{
    context = (struct iret_context){
        .rax = 1, .r11 = 2, .rcx = 3, .flags = how, .rip = (uint64_t)landed, .cs = cs,
        .rflags = rflags, .rsp = 0x123456789, .ss = FLAT_KERNEL_SS,
    };
    do_iret(NULL);
}

int main(void)
{
    ktap_plan(14);
    go(0, KERNEL_CS_PUSHED, 2 | FLAGS_IF);
    ok(seen.rax == 1 && seen.r11 == 2 && seen.rcx == 3, "rax, r11 and rcx are from the frame");
    ok_value(seen.rsp, 0x123456789, "rsp is, and need not be mapped");
    ok_value(seen.rbx, 0x7777, "the others stay");
    ok_value(event_mask(), 0, "IF set: events are not masked any more");
    go(0, KERNEL_CS_PUSHED, 2);
    ok_value(event_mask(), 1, "IF clear: masked");
    ok(seen.rflags & FLAGS_IF, "though the real IF stays set");
    go(0, KERNEL_CS_PUSHED, 2 | FLAGS_CF | FLAGS_DF | FLAGS_ID | FLAGS_AC);
    ok_value(seen.rflags & (FLAGS_CF | FLAGS_DF | FLAGS_ID | FLAGS_AC | FLAGS_NT),
             FLAGS_CF | FLAGS_DF | FLAGS_ID | FLAGS_AC, "CF, DF, ID and AC are loaded");
    go(0, KERNEL_CS_PUSHED, 2 | FLAGS_NT);
    ok_value(seen.rflags & FLAGS_NT, FLAGS_NT, "and NT");
    go(0, KERNEL_CS_PUSHED, FLAGS_IOPL);
    ok_value(seen.rflags & (FLAGS_IOPL | 2), 2, "IOPL is not, and bit 1 is always set");
    go(VGCF_in_syscall, KERNEL_CS_PUSHED, 2 | FLAGS_CF);
    ok_value(seen.rcx, landed, "VGCF_in_syscall: rcx = rip");
    ok_value(seen.r11 & (FLAGS_CF | FLAGS_IF), FLAGS_CF | FLAGS_IF, "r11 = rflags");
    ok_value(seen.rax, 1, "rax is from the frame");
    go(0, KERNEL_CS_PUSHED | 1, 2);
    ok_value(seen.rax, 1, "CS with RPL 1 means the kernel");
    go(0, KERNEL_CS_PUSHED | 2, 2);
    ok_value(seen.rax, 1, "and RPL 2");
    return 0;
}
