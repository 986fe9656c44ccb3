// cowbird: description = iret as an entry of a multicall: what follows it is not done
/* Xen: do_multicall stops where an entry has changed the guest's registers (multicall_entry of iret). */

#include "frame.h"

static struct multicall_entry calls[3];
struct iret_context context;
void do_multicall_iret(void *calls);

__asm__("do_multicall_iret:\n"
        "    push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
        "    mov  %rsp, saved_sp(%rip)\n"
        "    mov  %rdi, %rdx\n"
        "    sub  $72, %rsp\n"
        "    mov  %rsp, %rdi\n"
        "    lea  context(%rip), %rsi\n"
        "    mov  $9, %ecx\n"
        "    rep  movsq\n"
        "    mov  %rdx, %rdi\n"
        "    mov  $3, %esi\n"
        "    mov  $13, %eax\n"
        "    syscall\n"
        "    movq $-1, landed_rax(%rip)\n"
        "    jmp  1f\n"
        ".globl multicall_landed\n"
        "multicall_landed:\n"
        "    mov  %rax, landed_rax(%rip)\n"
        "1:  mov  saved_sp(%rip), %rsp\n"
        "    pop  %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "    ret\n"
        ".bss; saved_sp: .skip 8; .globl landed_rax; landed_rax: .skip 8; .text\n");
extern char multicall_landed[];
extern uint64_t landed_rax;

int main(void)
{
    ktap_plan(4);
    context = (struct iret_context){
        .rax = 0x4242, .rip = (uint64_t)multicall_landed, .cs = KERNEL_CS_PUSHED, .rflags = 2,
        .rsp = 0x1000, .ss = FLAT_KERNEL_SS,
    };
    calls[0] = (struct multicall_entry){.op = __HYPERVISOR_xen_version, .args = {XENVER_version}};
    calls[1] = (struct multicall_entry){.op = __HYPERVISOR_iret};
    calls[2] = (struct multicall_entry){.op = __HYPERVISOR_xen_version,
                                        .args = {XENVER_version}, .result = 0x77};
    do_multicall_iret(calls);
    ok_value(calls[0].result, HYPERVISOR_xen_version(XENVER_version, NULL), "the first is done");
    ok(landed_rax != ~0UL, "iret goes where its frame says");
    ok_value(landed_rax, 0x4242, "with the rax of the frame");
    ok_value(calls[2].result, 0x77, "the one behind it is not done");
    return 0;
}
