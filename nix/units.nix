# The units as plain data, in the words of NixOS's systemd.services: the one source of systemd/*.service and of module.nix.
#
# bin stands in front of the programs' names ("" lets systemd find them), lib in front of systemd's own.
{
  bin ? "",
  lib ? "/usr/lib/systemd/",
}:
let
  # What all of them can do without. Of the rest of systemd.exec(5), User=, RootDirectory= and PrivateUsers= are
  # left out everywhere: names and mounts in the host, and links in a namespace that the host's root owns, want its root.
  common = {
    Type = "oneshot";
    DevicePolicy = "closed";
    KeyringMode = "private";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    ProtectClock = true;
    ProtectHostname = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM"; # a message from the program, not a core dump
    UMask = "0077";
  };

  # And what works from the host on a link in a namespace
  outside = common // {
    # Setting up a link in another namespace takes these two. Root can read what root owns; a key of another user's
    # gets here by LoadCredential=.
    CapabilityBoundingSet = "CAP_NET_ADMIN CAP_SYS_ADMIN";
    # Names are looked up by these: DNS, nscd and systemd-resolved, and the list of the host's addresses.
    RestrictAddressFamilies = "AF_INET AF_INET6 AF_NETLINK AF_UNIX";
    RestrictNamespaces = "net"; # that one it enters
    SystemCallFilter = [
      "@system-service"
      "~@resources"
      "~@privileged" # setns(2) is not among them
    ];

    ProtectSystem = "strict";
    ProtectHome = "read-only"; # not hidden: keys are kept in /root too
    PrivateDevices = true;
    PrivateIPC = true;
    PrivateTmp = true;
    ProtectControlGroups = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true; # the kernel loads wireguard.ko itself
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    # Left out: ProcSubset=pid hides whether IPv6 is off and who has a lock; PrivateNetwork= and IPAddressDeny= would
    # take away the host's network, by which names are looked up and the tunnel's packets travel.
  };

  # The folder of the locks, which all programs share
  locks = {
    RuntimeDirectory = "wgns";
    RuntimeDirectoryPreserve = true;
  };

  retries = {
    Restart = "on-failure";
    RestartPreventExitStatus = "2 77 78"; # usage, permission and configuration do not mend themselves
    RestartSec = 2;
    RestartSteps = 6;
    RestartMaxDelaySec = 60;
  };

  # The tunnel of the instance, in the namespace of the same name
  tunnel = instance: name: {
    description = "WireGuard tunnel ${if name == "%I" then "%i" else name}";
    bindsTo = [ "netns@${instance}.service" ];
    wants = [
      "network-online.target"
      "wgns-refresh.timer"
    ];
    # Not after nss-lookup.target: wg-up itself waits for names, and a confined name server, which is ordered before that
    # target, would be in an ordering cycle with its own tunnel.
    after = [
      "netns@${instance}.service"
      "network-online.target"
    ];
    wantedBy = [ "multi-user.target" ];
    unitConfig.StartLimitIntervalSec = 0; # it keeps trying as long as it is wanted
    serviceConfig = outside // locks // retries // {
      RemainAfterExit = true;
      # A name server that is late at boot is waited for; a wrong name fails, and is tried again as all else.
      Environment = "WG_UP_OPTIONS=--resolve-timeout=30";
      ExecStart = "${bin}wg-up $WG_UP_OPTIONS ${name}";
      ExecReload = "${bin}wg-up $WG_UP_OPTIONS ${name}";
      ExecStopPost = "${bin}wg-down ${name}"; # also after a start that failed or was killed

      # RestartMode= is the normal one: "direct" would hold up the boot for as long as the tunnel fails.
      TimeoutStartSec = 180; # a lock is waited for 60 s, a name server that does not answer some 30 s for each name

      ConfigurationDirectory = "netns"; # it writes resolv.conf and nsswitch.conf in /etc/netns/NAME, and nothing else
    };
  };
in
rec {
  # What a service gets that is to run in the namespace `name` and nowhere else: where it cannot be joined, systemd does
  # not start it. `unit` is the tunnel's; since that wants the service, it comes up with it after a first start that failed.
  # What is set is proved before it starts.
  confined =
    { unit, name }:
    {
      bindsTo = [ unit ];
      after = [ unit ];
      wantedBy = [ unit ];
      serviceConfig = {
        NetworkNamespacePath = "/run/netns/${name}";
        # The sockets of whoever answers names for the host (nscd, systemd-resolved, D-Bus) are in /run. The unit's own
        # directories and credentials systemd brings back itself.
        TemporaryFileSystem = "/run";
        BindReadOnlyPaths = [
          "/etc/netns/${name}/nsswitch.conf:/etc/nsswitch.conf"
          "/etc/netns/${name}/resolv.conf:/etc/resolv.conf"
          "/run/netns/${name}" # to be compared by the check
          "-/run/current-system"
          "-/run/systemd/journal"
          "-/run/systemd/notify"
        ];
        # What the unit sets in the environment, and what its user keeps at home, is not for the check's Python. Not
        # ExecCondition=, which would run first: where systemd cannot set that up (225/NETWORK), the start is skipped
        # without being a failure.
        ExecStartPre = "/usr/bin/env -i JOURNAL_STREAM=\${JOURNAL_STREAM} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONNOUSERSITE=1 ${bin}wgns check ${name}";

        # What the kernel does for a caller outside of its namespaces: by request_key(2) it has names looked up in the host,
        # and sockets of these families reach the hypervisor, a modem or another namespace. EPERM: a daemon may go on.
        SystemCallFilter = "~@keyring";
        SystemCallErrorNumber = "EPERM";
        RestrictAddressFamilies = "~AF_VSOCK AF_QIPCRTR AF_RDS";

        # What leads out without the help of another process (capabilities(7)): links of the host's namespace and the
        # tunnel's keys (NET_ADMIN), other namespaces (SYS_ADMIN), processes of the host (SYS_PTRACE, PERFMON, BPF), its
        # files past all mounts (DAC_READ_SEARCH), and kernel, memory and disks (SYS_MODULE, SYS_BOOT, SYS_RAWIO, MKNOD).
        CapabilityBoundingSet = "~CAP_BPF CAP_DAC_READ_SEARCH CAP_MKNOD CAP_NET_ADMIN CAP_PERFMON CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_MODULE CAP_SYS_PTRACE CAP_SYS_RAWIO";
        NoNewPrivileges = true; # by crontab(1) and at(1) a service would have commands run in the host
        # /proc/1/net shows the host's networks; "invisible" would go on showing it to the group of root.
        ProtectProc = "ptraceable";
        InaccessiblePaths = "-/etc/wireguard"; # the keys

        # What root could use without any capability: programs that the kernel starts in the host (kernel.core_pattern,
        # kernel.modprobe), another control group, which the tunnel does not stop, and disks and modems. DeviceAllow= of
        # the unit gives it a device back.
        ProtectKernelTunables = true;
        ProtectControlGroups = true;
        DevicePolicy = "closed";
      };
    };

  # The same for a socket unit, which otherwise listens in the host. The ordinary dependencies would have it up before
  # any service, the tunnel's among them.
  confinedSocket =
    { unit, name, ... }:
    {
      bindsTo = [ unit ];
      after = [
        "sysinit.target"
        unit
      ];
      before = [ "shutdown.target" ];
      conflicts = [ "shutdown.target" ];
      wantedBy = [ unit ];
      unitConfig.DefaultDependencies = false;
      socketConfig.NetworkNamespacePath = "/run/netns/${name}";
    };

  # A port of the services in the namespace `name`, reached at addresses of the host without a link between the two:
  # systemd listens in the host, and systemd-socket-proxyd(8) connects in the namespace.
  published =
    {
      unit,
      name,
      listen,
      port,
    }:
    {
      socket = builtins.removeAttrs (confinedSocket { inherit unit name; }) [ "socketConfig" ] // {
        description = "Port ${toString port} in the network namespace ${name}";
        socketConfig.ListenStream = listen;
      };
      service = {
        description = "Port ${toString port} in the network namespace ${name}";
        bindsTo = [ unit ];
        after = [ unit ];
        # Not like `confined`: it looks no names up, and goes on when the tunnel's link is gone.
        serviceConfig = common // {
          Type = "notify";
          ExecStart = "${lib}systemd-socket-proxyd 127.0.0.1:${toString port}";
          NetworkNamespacePath = "/run/netns/${name}";
          TemporaryFileSystem = "/run";
          BindReadOnlyPaths = "/run/systemd/notify";
          DynamicUser = true;
          CapabilityBoundingSet = "";
          PrivateDevices = true;
          ProtectHome = true;
          RestrictAddressFamilies = "AF_INET AF_INET6 AF_UNIX";
          RestrictNamespaces = true;
          ProtectProc = "invisible";
          SystemCallFilter = [
            "@system-service"
            "~@keyring"
          ];
        };
      };
    };

  # One timer for all tunnels
  timers.wgns-refresh = {
    description = "Look after tunnels whose peers do not answer";
    timerConfig = {
      OnActiveSec = 60;
      OnUnitInactiveSec = 60;
      AccuracySec = 10;
    };
  };

  services = {
    wgns-refresh = {
      description = "Look up the endpoints of peers that do not answer";
      after = [ "nss-lookup.target" ];
      serviceConfig = outside // locks // {
        ExecStart = "${bin}wgns refresh";
        LogLevelMax = "notice"; # what it has changed, not that it has run
        SuccessExitStatus = 75; # a name that does not resolve is looked up again in a minute
        TimeoutStartSec = 120;
      };
    };
    "netns@" = {
      description = "Network namespace %i";
      before = [ "network.target" ];
      unitConfig.StartLimitIntervalSec = 0; # it keeps trying for as long as something needs it
      serviceConfig = common // retries // {
        RemainAfterExit = true;
        # The tunnel's start waits meanwhile; in the normal mode it would fail, and nothing would start it again.
        RestartMode = "direct";
        ExecStart = "${bin}netns-up %I";
        ExecStop = "${bin}netns-down %I";
        ExecStopPost = "${bin}netns-down %I"; # also after a start that failed, which ExecStop= is not
        TimeoutStartSec = 90; # a lock is waited for 60 s
        PrivateNetwork = true; # the namespace that gets the name

        # The name is a mount that all others are to see. Each of PrivateTmp=, PrivateDevices=, PrivateIPC=, ProtectSystem=,
        # ProtectHome=, ProtectProc=, ProtectControlGroups=, ProtectKernelLogs=, ProtectKernelModules=,
        # ProtectKernelTunables=, ReadWritePaths= and BindPaths= gives the unit mounts of its own, and PrivateNetwork=
        # does so too since systemd 254 (issue 28686).
        PrivateMounts = false;

        # mount(2). Without CAP_SYS_PTRACE netns-down names only root's of the processes that it leaves inside.
        CapabilityBoundingSet = "CAP_SYS_ADMIN";
        IPAddressDeny = "any";
        RestrictAddressFamilies = "AF_NETLINK"; # whether a link but lo is up
        RestrictNamespaces = true; # systemd makes the one that is wanted
        SystemCallFilter = [
          "@system-service"
          "@mount"
          "~@resources"
          "~@privileged"
        ];
      };
    };
    "wg@" = tunnel "%i" "%I";
    # The article's name for the tunnel wg; an alias of the instance wg@wg.service is refused by systemd
    wg = tunnel "wg" "wg" // {
      conflicts = [ "wg@wg.service" ];
    };
  };
}
