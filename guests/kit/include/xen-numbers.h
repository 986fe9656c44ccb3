/*
 * The numbers of the Xen PV ABI for 64-bit and 32-bit (PAE) guests, under Xen's own names. May be
 * included by assembly too.
 *
 * Source: Xen's public headers (interface version 4.14 and later). Nothing but object-like macros
 * stands here: tests/guests/test_ckit.py compiles every one of them against Debian's libxen-dev
 * and compares the values.
 */

#ifndef COWBIRD_XEN_NUMBERS_H
#define COWBIRD_XEN_NUMBERS_H

/* Hypercalls: the number goes into RAX or EAX. */
#define __HYPERVISOR_set_trap_table                  0
#define __HYPERVISOR_mmu_update                      1
#define __HYPERVISOR_set_gdt                         2
#define __HYPERVISOR_stack_switch                    3
#define __HYPERVISOR_set_callbacks                   4
#define __HYPERVISOR_fpu_taskswitch                  5
#define __HYPERVISOR_sched_op_compat                 6
#define __HYPERVISOR_platform_op                     7
#define __HYPERVISOR_set_debugreg                    8
#define __HYPERVISOR_get_debugreg                    9
#define __HYPERVISOR_update_descriptor               10
#define __HYPERVISOR_memory_op                       12
#define __HYPERVISOR_multicall                       13
#define __HYPERVISOR_update_va_mapping               14
#define __HYPERVISOR_set_timer_op                    15
#define __HYPERVISOR_event_channel_op_compat         16
#define __HYPERVISOR_xen_version                     17
#define __HYPERVISOR_console_io                      18
#define __HYPERVISOR_physdev_op_compat               19
#define __HYPERVISOR_grant_table_op                  20
#define __HYPERVISOR_vm_assist                       21
#define __HYPERVISOR_update_va_mapping_otherdomain   22
#define __HYPERVISOR_iret                            23
#define __HYPERVISOR_vcpu_op                         24
#define __HYPERVISOR_set_segment_base                25
#define __HYPERVISOR_mmuext_op                       26
#define __HYPERVISOR_xsm_op                          27
#define __HYPERVISOR_nmi_op                          28
#define __HYPERVISOR_sched_op                        29
#define __HYPERVISOR_callback_op                     30
#define __HYPERVISOR_xenoprof_op                     31
#define __HYPERVISOR_event_channel_op                32
#define __HYPERVISOR_physdev_op                      33
#define __HYPERVISOR_hvm_op                          34
#define __HYPERVISOR_sysctl                          35
#define __HYPERVISOR_domctl                          36
#define __HYPERVISOR_kexec_op                        37
#define __HYPERVISOR_tmem_op                         38
#define __HYPERVISOR_argo_op                         39
#define __HYPERVISOR_xenpmu_op                       40
#define __HYPERVISOR_dm_op                           41
#define __HYPERVISOR_hypfs_op                        42
#define __HYPERVISOR_arch_0                          48
#define __HYPERVISOR_arch_1                          49
#define __HYPERVISOR_arch_2                          50
#define __HYPERVISOR_arch_3                          51
#define __HYPERVISOR_arch_4                          52
#define __HYPERVISOR_arch_5                          53

/* Commands in bits 1..0 of mmu_update.ptr. */
#define MMU_NORMAL_PT_UPDATE                         0
#define MMU_MACHPHYS_UPDATE                          1
#define MMU_PT_UPDATE_PRESERVE_AD                    2
#define MMU_PT_UPDATE_NO_TRANSLATE                   3

/* mmuext_op.cmd. */
#define MMUEXT_PIN_L1_TABLE                          0
#define MMUEXT_PIN_L2_TABLE                          1
#define MMUEXT_PIN_L3_TABLE                          2
#define MMUEXT_PIN_L4_TABLE                          3
#define MMUEXT_UNPIN_TABLE                           4
#define MMUEXT_NEW_BASEPTR                           5
#define MMUEXT_TLB_FLUSH_LOCAL                       6
#define MMUEXT_INVLPG_LOCAL                          7
#define MMUEXT_TLB_FLUSH_MULTI                       8
#define MMUEXT_INVLPG_MULTI                          9
#define MMUEXT_TLB_FLUSH_ALL                         10
#define MMUEXT_INVLPG_ALL                            11
#define MMUEXT_FLUSH_CACHE                           12
#define MMUEXT_SET_LDT                               13
#define MMUEXT_NEW_USER_BASEPTR                      15
#define MMUEXT_CLEAR_PAGE                            16
#define MMUEXT_COPY_PAGE                             17
#define MMUEXT_FLUSH_CACHE_GLOBAL                    18
#define MMUEXT_MARK_SUPER                            19
#define MMUEXT_UNMARK_SUPER                          20

/* Flags of update_va_mapping. */
#define UVMF_NONE                                    0x0
#define UVMF_TLB_FLUSH                               0x1
#define UVMF_INVLPG                                  0x2
#define UVMF_FLUSHTYPE_MASK                          0x3
#define UVMF_MULTI                                   0x0
#define UVMF_LOCAL                                   0x0
#define UVMF_ALL                                     0x4

/* memory_op. */
#define XENMEM_increase_reservation                  0
#define XENMEM_decrease_reservation                  1
#define XENMEM_maximum_ram_page                      2
#define XENMEM_current_reservation                   3
#define XENMEM_maximum_reservation                   4
#define XENMEM_machphys_mfn_list                     5
#define XENMEM_populate_physmap                      6
#define XENMEM_add_to_physmap                        7
#define XENMEM_memory_map                            9
#define XENMEM_machine_memory_map                    10
#define XENMEM_exchange                              11
#define XENMEM_machphys_mapping                      12
#define XENMEM_set_memory_map                        13
#define XENMEM_maximum_gpfn                          14
#define XENMEM_remove_from_physmap                   15
#define XENMEM_set_pod_target                        16
#define XENMEM_get_pod_target                        17
#define XENMEM_get_sharing_freed_pages               18
#define XENMEM_get_sharing_shared_pages              19
#define XENMEM_paging_op                             20
#define XENMEM_access_op                             21
#define XENMEM_sharing_op                            22
#define XENMEM_add_to_physmap_batch                  23
#define XENMEM_claim_pages                           24
#define XENMEM_machphys_compat_mfn_list              25
#define XENMEM_get_vnumainfo                         26
#define XENMEM_reserved_device_memory_map            27
#define XENMEM_acquire_resource                      28

/* xen_memory_reservation.mem_flags above the address width. */
#define XENMEMF_populate_on_demand                   0x10000
#define XENMEMF_exact_node_request                   0x20000
#define XENMEMF_vnode                                0x40000

/* sched_op. */
#define SCHEDOP_yield                                0
#define SCHEDOP_block                                1
#define SCHEDOP_shutdown                             2
#define SCHEDOP_poll                                 3
#define SCHEDOP_remote_shutdown                      4
#define SCHEDOP_shutdown_code                        5
#define SCHEDOP_watchdog                             6
#define SCHEDOP_pin_override                         7

/* sched_shutdown.reason. */
#define SHUTDOWN_poweroff                            0
#define SHUTDOWN_reboot                              1
#define SHUTDOWN_suspend                             2
#define SHUTDOWN_crash                               3
#define SHUTDOWN_watchdog                            4
#define SHUTDOWN_soft_reset                          5

/* event_channel_op. */
#define EVTCHNOP_bind_interdomain                    0
#define EVTCHNOP_bind_virq                           1
#define EVTCHNOP_bind_pirq                           2
#define EVTCHNOP_close                               3
#define EVTCHNOP_send                                4
#define EVTCHNOP_status                              5
#define EVTCHNOP_alloc_unbound                       6
#define EVTCHNOP_bind_ipi                            7
#define EVTCHNOP_bind_vcpu                           8
#define EVTCHNOP_unmask                              9
#define EVTCHNOP_reset                               10
#define EVTCHNOP_init_control                        11
#define EVTCHNOP_expand_array                        12
#define EVTCHNOP_set_priority                        13

/* evtchn_status.status. */
#define EVTCHNSTAT_closed                            0
#define EVTCHNSTAT_unbound                           1
#define EVTCHNSTAT_interdomain                       2
#define EVTCHNSTAT_pirq                              3
#define EVTCHNSTAT_virq                              4
#define EVTCHNSTAT_ipi                               5

/* Virtual interrupts. */
#define VIRQ_TIMER                                   0
#define VIRQ_DEBUG                                   1
#define VIRQ_CONSOLE                                 2
#define VIRQ_DOM_EXC                                 3
#define VIRQ_TBUF                                    4
#define VIRQ_DEBUGGER                                6
#define VIRQ_XENOPROF                                7
#define VIRQ_CON_RING                                8
#define VIRQ_PCPU_STATE                              9
#define VIRQ_MEM_EVENT                               10
#define VIRQ_ARGO                                    11
#define VIRQ_ENOMEM                                  12
#define VIRQ_XENPMU                                  13
#define VIRQ_ARCH_0                                  16
#define VIRQ_ARCH_1                                  17
#define VIRQ_ARCH_2                                  18
#define VIRQ_ARCH_3                                  19
#define VIRQ_ARCH_4                                  20
#define VIRQ_ARCH_5                                  21
#define VIRQ_ARCH_6                                  22
#define VIRQ_ARCH_7                                  23

/* vcpu_op. */
#define VCPUOP_initialise                            0
#define VCPUOP_up                                    1
#define VCPUOP_down                                  2
#define VCPUOP_is_up                                 3
#define VCPUOP_get_runstate_info                     4
#define VCPUOP_register_runstate_memory_area         5
#define VCPUOP_set_periodic_timer                    6
#define VCPUOP_stop_periodic_timer                   7
#define VCPUOP_set_singleshot_timer                  8
#define VCPUOP_stop_singleshot_timer                 9
#define VCPUOP_register_vcpu_info                    10
#define VCPUOP_send_nmi                              11
#define VCPUOP_get_physid                            12
#define VCPUOP_register_vcpu_time_memory_area        13

/* vcpu_runstate_info.state. */
#define RUNSTATE_running                             0
#define RUNSTATE_runnable                            1
#define RUNSTATE_blocked                             2
#define RUNSTATE_offline                             3

/* vcpu_set_singleshot_timer.flags. */
#define VCPU_SSHOTTMR_future                         0x1

/* console_io. */
#define CONSOLEIO_write                              0
#define CONSOLEIO_read                               1

/* xen_version. */
#define XENVER_version                               0
#define XENVER_extraversion                          1
#define XENVER_compile_info                          2
#define XENVER_capabilities                          3
#define XENVER_changeset                             4
#define XENVER_platform_parameters                   5
#define XENVER_get_features                          6
#define XENVER_pagesize                              7
#define XENVER_guest_handle                          8
#define XENVER_commandline                           9
#define XENVER_build_id                              10

/* Feature bits: feature n is bit n % 32 of submap n / 32. */
#define XENFEAT_writable_page_tables                 0
#define XENFEAT_writable_descriptor_tables           1
#define XENFEAT_auto_translated_physmap              2
#define XENFEAT_supervisor_mode_kernel               3
#define XENFEAT_pae_pgdir_above_4gb                  4
#define XENFEAT_mmu_pt_update_preserve_ad            5
#define XENFEAT_highmem_assist                       6
#define XENFEAT_gnttab_map_avail_bits                7
#define XENFEAT_hvm_callback_vector                  8
#define XENFEAT_hvm_safe_pvclock                     9
#define XENFEAT_hvm_pirqs                            10
#define XENFEAT_dom0                                 11
#define XENFEAT_memory_op_vnode_supported            13
#define XENFEAT_ARM_SMCCC_supported                  14
#define XENFEAT_linux_rsdp_unrestricted              15
#define XENFEAT_not_direct_mapped                    16
#define XENFEAT_direct_mapped                        17

/* callback_op. */
#define CALLBACKOP_register                          0
#define CALLBACKOP_unregister                        1

/* callback_register.type. */
#define CALLBACKTYPE_event                           0
#define CALLBACKTYPE_failsafe                        1
#define CALLBACKTYPE_syscall                         2
#define CALLBACKTYPE_sysenter_deprecated             3
#define CALLBACKTYPE_nmi                             4
#define CALLBACKTYPE_sysenter                        5
#define CALLBACKTYPE_syscall32                       7

/* callback_register.flags. */
#define CALLBACKF_mask_events                        0x1

/* vm_assist: first argument. */
#define VMASST_CMD_enable                            0
#define VMASST_CMD_disable                           1

/* vm_assist: second argument. */
#define VMASST_TYPE_4gb_segments                     0
#define VMASST_TYPE_4gb_segments_notify              1
#define VMASST_TYPE_writable_pagetables              2
#define VMASST_TYPE_pae_extended_cr3                 3
#define VMASST_TYPE_architectural_iopl               4
#define VMASST_TYPE_runstate_update_flag             5
#define VMASST_TYPE_m2p_strict                       32

/* nmi_op. */
#define XENNMI_register_callback                     0
#define XENNMI_unregister_callback                   1

/* set_segment_base: first argument. */
#ifdef __x86_64__
#define SEGBASE_FS                                   0
#define SEGBASE_GS_USER                              1
#define SEGBASE_GS_KERNEL                            2
#define SEGBASE_GS_USER_SEL                          3
#endif

/* start_info.flags. */
#define SIF_PRIVILEGED                               0x1
#define SIF_INITDOMAIN                               0x2
#define SIF_MULTIBOOT_MOD                            0x4
#define SIF_MOD_START_PFN                            0x8
#define SIF_VIRT_P2M_4TOOLS                          0x10
#define SIF_PM_MASK                                  0xff00

/* Reserved domain numbers. */
#define DOMID_SELF                                   0x7ff0
#define DOMID_IO                                     0x7ff1
#define DOMID_XEN                                    0x7ff2
#define DOMID_COW                                    0x7ff3
#define DOMID_INVALID                                0x7ff4
#define DOMID_IDLE                                   0x7fff
#define DOMID_FIRST_RESERVED                         0x7ff0
#define DOMID_MASK                                   0x7fff

/* iret_context.flags, vcpu_guest_context.flags. */
#define VGCF_i387_valid                              0x1
#define VGCF_in_kernel                               0x4
#define VGCF_failsafe_disables_events                0x8
#define VGCF_syscall_disables_events                 0x10
#define VGCF_online                                  0x20
#ifdef __x86_64__
#define VGCF_in_syscall                              0x100
#endif

/* grant_table_op. */
#define GNTTABOP_map_grant_ref                       0
#define GNTTABOP_unmap_grant_ref                     1
#define GNTTABOP_setup_table                         2
#define GNTTABOP_dump_table                          3
#define GNTTABOP_transfer                            4
#define GNTTABOP_copy                                5
#define GNTTABOP_query_size                          6
#define GNTTABOP_unmap_and_replace                   7
#define GNTTABOP_set_version                         8
#define GNTTABOP_get_status_frames                   9
#define GNTTABOP_get_version                         10
#define GNTTABOP_swap_grant_ref                      11
#define GNTTABOP_cache_flush                         12

/* Status of a grant operation. */
#define GNTST_okay                                   0
#define GNTST_general_error                          (-1)
#define GNTST_bad_domain                             (-2)
#define GNTST_bad_gntref                             (-3)
#define GNTST_bad_handle                             (-4)
#define GNTST_bad_virt_addr                          (-5)
#define GNTST_bad_dev_addr                           (-6)
#define GNTST_no_device_space                        (-7)
#define GNTST_permission_denied                      (-8)
#define GNTST_bad_page                               (-9)
#define GNTST_bad_copy_arg                           (-10)
#define GNTST_address_too_big                        (-11)
#define GNTST_eagain                                 (-12)
#define GNTST_no_space                               (-13)

/* grant_entry_v1.flags. */
#define GTF_invalid                                  0x0
#define GTF_permit_access                            0x1
#define GTF_accept_transfer                          0x2
#define GTF_transitive                               0x3
#define GTF_type_mask                                0x3
#define GTF_readonly                                 0x4
#define GTF_reading                                  0x8
#define GTF_writing                                  0x10
#define GTF_PWT                                      0x20
#define GTF_PCD                                      0x40
#define GTF_PAT                                      0x80
#define GTF_sub_page                                 0x100
#define GTF_transfer_committed                       0x4
#define GTF_transfer_completed                       0x8

/* gnttab_map_grant_ref.flags. */
#define GNTMAP_device_map                            0x1
#define GNTMAP_host_map                              0x2
#define GNTMAP_readonly                              0x4
#define GNTMAP_application_map                       0x8
#define GNTMAP_contains_pte                          0x10

/* physdev_op. */
#define PHYSDEVOP_IRQ_UNMASK_NOTIFY                  4
#define PHYSDEVOP_irq_status_query                   5
#define PHYSDEVOP_set_iopl                           6
#define PHYSDEVOP_set_iobitmap                       7
#define PHYSDEVOP_apic_read                          8
#define PHYSDEVOP_apic_write                         9
#define PHYSDEVOP_alloc_irq_vector                   10
#define PHYSDEVOP_free_irq_vector                    11
#define PHYSDEVOP_eoi                                12
#define PHYSDEVOP_map_pirq                           13
#define PHYSDEVOP_unmap_pirq                         14
#define PHYSDEVOP_manage_pci_add                     15
#define PHYSDEVOP_manage_pci_remove                  16
#define PHYSDEVOP_pirq_eoi_gmfn_v1                   17
#define PHYSDEVOP_restore_msi                        19
#define PHYSDEVOP_manage_pci_add_ext                 20
#define PHYSDEVOP_setup_gsi                          21
#define PHYSDEVOP_get_free_pirq                      23
#define PHYSDEVOP_pci_mmcfg_reserved                 24
#define PHYSDEVOP_pci_device_add                     25
#define PHYSDEVOP_pci_device_remove                  26
#define PHYSDEVOP_restore_msi_ext                    27
#define PHYSDEVOP_pirq_eoi_gmfn_v2                   28
#define PHYSDEVOP_dbgp_op                            29
#define PHYSDEVOP_prepare_msix                       30
#define PHYSDEVOP_release_msix                       31

/* Errors; a hypercall answers with the negative number. */
#define XEN_EPERM                                    1
#define XEN_ENOENT                                   2
#define XEN_ESRCH                                    3
#define XEN_EIO                                      5
#define XEN_ENXIO                                    6
#define XEN_E2BIG                                    7
#define XEN_ENOEXEC                                  8
#define XEN_EBADF                                    9
#define XEN_ECHILD                                   10
#define XEN_EAGAIN                                   11
#define XEN_EWOULDBLOCK                              11
#define XEN_ENOMEM                                   12
#define XEN_EACCES                                   13
#define XEN_EFAULT                                   14
#define XEN_EBUSY                                    16
#define XEN_EEXIST                                   17
#define XEN_EXDEV                                    18
#define XEN_ENODEV                                   19
#define XEN_ENOTDIR                                  20
#define XEN_EISDIR                                   21
#define XEN_EINVAL                                   22
#define XEN_ENFILE                                   23
#define XEN_EMFILE                                   24
#define XEN_ENOSPC                                   28
#define XEN_EROFS                                    30
#define XEN_EMLINK                                   31
#define XEN_EDOM                                     33
#define XEN_ERANGE                                   34
#define XEN_EDEADLK                                  35
#define XEN_EDEADLOCK                                35
#define XEN_ENAMETOOLONG                             36
#define XEN_ENOLCK                                   37
#define XEN_ENOSYS                                   38
#define XEN_ENOTEMPTY                                39
#define XEN_ENODATA                                  61
#define XEN_ETIME                                    62
#define XEN_EBADMSG                                  74
#define XEN_EOVERFLOW                                75
#define XEN_EILSEQ                                   84
#define XEN_ENOTSOCK                                 88
#define XEN_EMSGSIZE                                 90
#define XEN_EOPNOTSUPP                               95
#define XEN_EADDRINUSE                               98
#define XEN_EADDRNOTAVAIL                            99
#define XEN_ENOBUFS                                  105
#define XEN_EISCONN                                  106
#define XEN_ENOTCONN                                 107
#define XEN_ETIMEDOUT                                110
#define XEN_ECONNREFUSED                             111

/* Notes of a kernel's ELF file, name "Xen". */
#define XEN_ELFNOTE_INFO                             0
#define XEN_ELFNOTE_ENTRY                            1
#define XEN_ELFNOTE_HYPERCALL_PAGE                   2
#define XEN_ELFNOTE_VIRT_BASE                        3
#define XEN_ELFNOTE_PADDR_OFFSET                     4
#define XEN_ELFNOTE_XEN_VERSION                      5
#define XEN_ELFNOTE_GUEST_OS                         6
#define XEN_ELFNOTE_GUEST_VERSION                    7
#define XEN_ELFNOTE_LOADER                           8
#define XEN_ELFNOTE_PAE_MODE                         9
#define XEN_ELFNOTE_FEATURES                         10
#define XEN_ELFNOTE_BSD_SYMTAB                       11
#define XEN_ELFNOTE_HV_START_LOW                     12
#define XEN_ELFNOTE_L1_MFN_VALID                     13
#define XEN_ELFNOTE_SUSPEND_CANCEL                   14
#define XEN_ELFNOTE_INIT_P2M                         15
#define XEN_ELFNOTE_MOD_START_PFN                    16
#define XEN_ELFNOTE_SUPPORTED_FEATURES               17
#define XEN_ELFNOTE_PHYS32_ENTRY                     18

/* Selectors of Xen's flat segments: kernel and user both run in ring 3 of the hardware. */
#ifdef __x86_64__
#define FLAT_RING3_CS32                              0xe023
#define FLAT_RING3_CS64                              0xe033
#define FLAT_RING3_DS64                              0x0000
#define FLAT_RING3_DS32                              0xe02b
#define FLAT_RING3_SS32                              0xe02b
#define FLAT_RING3_SS64                              0xe02b
#define FLAT_KERNEL_CS                               0xe033
#define FLAT_KERNEL_DS                               0x0000
#define FLAT_KERNEL_SS                               0xe02b
#define FLAT_KERNEL_CS64                             0xe033
#define FLAT_KERNEL_DS64                             0x0000
#define FLAT_KERNEL_SS64                             0xe02b
#define FLAT_KERNEL_CS32                             0xe023
#define FLAT_KERNEL_DS32                             0xe02b
#define FLAT_KERNEL_SS32                             0xe02b
#define FLAT_USER_CS                                 0xe033
#define FLAT_USER_DS                                 0x0000
#define FLAT_USER_SS                                 0xe02b
#define FLAT_USER_CS64                               0xe033
#define FLAT_USER_DS64                               0x0000
#define FLAT_USER_SS64                               0xe02b
#define FLAT_USER_CS32                               0xe023
#define FLAT_USER_DS32                               0xe02b
#define FLAT_USER_SS32                               0xe02b
#else
#define FLAT_RING1_CS                                0xe019
#define FLAT_RING1_DS                                0xe021
#define FLAT_RING1_SS                                0xe021
#define FLAT_RING3_CS                                0xe02b
#define FLAT_RING3_DS                                0xe033
#define FLAT_RING3_SS                                0xe033
#define FLAT_KERNEL_CS                               0xe019
#define FLAT_KERNEL_DS                               0xe021
#define FLAT_KERNEL_SS                               0xe021
#define FLAT_USER_CS                                 0xe02b
#define FLAT_USER_DS                                 0xe033
#define FLAT_USER_SS                                 0xe033
#endif

/* Bounds and places. */
#define FIRST_RESERVED_GDT_PAGE                      14
#define FIRST_RESERVED_GDT_BYTE                      57344
#define FIRST_RESERVED_GDT_ENTRY                     7168
#define XEN_LEGACY_MAX_VCPUS                         32
#define MAX_GUEST_CMDLINE                            1024
#define XEN_EXTRAVERSION_LEN                         16
#define XEN_CAPABILITIES_INFO_LEN                    1024
#define XEN_CHANGESET_INFO_LEN                       64
#define XENFEAT_NR_SUBMAPS                           1
#ifdef __x86_64__
#define HYPERVISOR_VIRT_START                        0xffff800000000000
#define HYPERVISOR_VIRT_END                          0xffff880000000000
#define MACH2PHYS_VIRT_START                         0xffff800000000000
#define MACH2PHYS_VIRT_END                           0xffff804000000000
#else
#define HYPERVISOR_VIRT_START                        0xf5800000
#define MACH2PHYS_VIRT_START                         0xf5800000
#define MACH2PHYS_VIRT_END                           0xf6800000
#endif

#endif
